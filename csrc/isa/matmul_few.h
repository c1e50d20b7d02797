// What kernels for a few tokens share, whatever their registers. Included inside a kernel's own file.
#pragma once

#include <cstddef>

#include "kernels.h"

namespace gpt_oss {
namespace {

// Columns of Int8Group.
inline size_t group_bytes(int cols) { return groups(cols) * sizeof(Int8Group); }

inline void unpack_groups(const void* packed, int cols, double* out) {
  const auto* x = static_cast<const Int8Group*>(packed);
  for (int i = 0; i < cols; ++i) {
    const Int8Group& group = x[i / 128];
    const int at = i % 128 / kBlock * 16 + i % kBlock / 2;
    out[i] = static_cast<double>(group.scale[at / 4]) * (i % 2 == 0 ? group.even : group.odd)[at];
  }
}

// Calls rows(x[N], out) for every set of N = min(count, kMost) columns.
template <class Column, int kMost, class F>
inline void for_columns(const void* const* columns, int count, float* out, size_t stride, F rows) {
  for (; count >= kMost; count -= kMost, columns += kMost, out += kMost * stride) {
    const Column* x[kMost];
    for (int c = 0; c < kMost; ++c) x[c] = static_cast<const Column*>(columns[c]);
    rows(x, out);
  }
  if constexpr (kMost > 1) for_columns<Column, kMost - 1>(columns, count, out, stride, rows);
}

// Calls row(r, x[N], result[N]) for every row and every set of N = min(count, 8) columns.
template <class Column, class Row>
inline void few(const Rows& w, const void* const* columns, int count, float* out, size_t stride, Row row) {
  for_columns<Column, 8>(columns, count, out, stride, [&]<int N>(const Column* const (&x)[N], float* to) {
    for (int r = 0; r < w.rows; ++r) {
      float result[N];
      row(static_cast<size_t>(r), x, result);
      for (int c = 0; c < N; ++c) to[c * stride + r] = result[c];
    }
  });
}

}  // namespace
}  // namespace gpt_oss

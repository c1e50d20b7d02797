// The parts of an attention kernel, for vectors of kLanes floats: exp2, masking, softmax of a tile, merging, and the
// float32 products. Included once by each isa/attention_*.cc; the anonymous namespace gives each its own copy, compiled
// with its own instructions.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>

#include "../attention.h"
#include "lanes.h"

namespace gpt_oss {
namespace {

template <int kLanes>
struct Tile {
  using Vectors = Lanes<kLanes>;
  using F = typename Vectors::F;
  using I = typename Vectors::I;

  static F load(const float* p) {
    F v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static void store(float* p, F v) { std::memcpy(p, &v, sizeof v); }
  static F all(float x) { return F{} + x; }
  static F max(F a, F b) { return Vectors::select(a > b, a, b); }

  // 2^x for x <= 0, exactly 0 below -126; the series of 2^f on [-1/2, 1/2] to f^6: relative error 2e-7.
  static F exp2(F x) {
    const F lowest = all(-126.0f), to_integer = all(12582912.0f);  // adding 1.5 * 2^23 rounds to an integer
    const I in_range = x >= lowest;
    x = max(x, lowest);
    const F t = x + to_integer;
    const I n = Vectors::bits(t) - Vectors::bits(to_integer);
    const F f = x - (t - to_integer);
    F p = all(1.540353e-4f);
    p = p * f + 1.333356e-3f;
    p = p * f + 9.618129e-3f;
    p = p * f + 5.550411e-2f;
    p = p * f + 2.402265e-1f;
    p = p * f + 6.931472e-1f;
    p = p * f + 1.0f;
    return Vectors::from_bits((Vectors::bits(p) + (n << 23)) & in_range);
  }

  // Hides the keys of one block, first_key and on, that a column may not see. scores: [kBlockTokens][kColumns].
  static void mask(const SpanArgs& a, int first_key, float* scores) {
    const bool all_visible =
        first_key + kBlockTokens - 1 <= a.oldest && (a.window == 0 || first_key > a.newest - a.window);
    if (all_visible) return;
    const int window = a.window == 0 ? a.newest + 1 : a.window;
    for (int c = 0; c < a.columns; c += kLanes) {
      I last;
      std::memcpy(&last, a.positions + c, sizeof last);
      for (int key = 0; key < kBlockTokens; ++key) {
        const I position = I{} + (first_key + key);
        const I visible = (position <= last) & (position > last - window);
        float* row = scores + key * kColumns + c;
        store(row, Vectors::select(visible, load(row), all(-std::numeric_limits<float>::infinity())));
      }
    }
  }

  // a.max of one block's scores [kBlockTokens][kColumns] and, after the first block, of what it is already.
  static void column_max(const SpanArgs& a, bool first, const float* scores) {
    constexpr int kChains = 4;  // hide the latency of one maximum behind others
    for (int c = 0; c < a.columns; c += kLanes) {
      F m[kChains];
      for (int i = 0; i < kChains; ++i) m[i] = first ? all(kNothing) : load(a.max + c);
      for (int key = 0; key < kBlockTokens; key += kChains) {
        for (int i = 0; i < kChains; ++i) m[i] = max(m[i], load(scores + (key + i) * kColumns + c));
      }
      store(a.max + c, max(max(m[0], m[1]), max(m[2], m[3])));
    }
  }

  static void merge(float* into, const float* from, int columns, int head_dim) {
    for (int c = 0; c < columns; c += kLanes) {
      float *m = into + c, *l = m + kColumns, *o = l + kColumns;
      const float *m2 = from + c, *l2 = m2 + kColumns, *o2 = l2 + kColumns;
      const F greatest = max(load(m), load(m2));
      const F keep = exp2(load(m) - greatest), add = exp2(load(m2) - greatest);
      store(m, greatest);
      store(l, load(l) * keep + load(l2) * add);
      for (int d = 0; d < head_dim; ++d) {
        store(o + d * kColumns, load(o + d * kColumns) * keep + load(o2 + d * kColumns) * add);
      }
    }
  }

  // c[row][0..kVectors) (+)= sum_k a[row][k] * b[k][0..kVectors), for kRows rows; b and c have kColumns columns.
  template <int kRows, int kVectors>
  static void multiply_rows(const float* a, int depth, const float* b, float* c, bool add) {
    F sums[kRows][kVectors];
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) sums[r][v] = add ? load(c + r * kColumns + v * kLanes) : F{};
    }
    for (int k = 0; k < depth; ++k) {
      F right[kVectors];
      for (int v = 0; v < kVectors; ++v) right[v] = load(b + k * kColumns + v * kLanes);
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) sums[r][v] += a[r * depth + k] * right[v];
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) store(c + r * kColumns + v * kLanes, sums[r][v]);
    }
  }

  // The same for `rows` rows (a multiple of 8) and `columns` columns. 16 sums need the 32 registers that AVX2 lacks.
  static void multiply(const float* a, int rows, int depth, const float* b, float* c, int columns, bool add) {
    constexpr int kRows = kLanes == 8 ? 4 : 8;
    for (int v = 0; v < columns; v += 2 * kLanes) {
      for (int r = 0; r < rows; r += kRows) {
        float* block = c + r * kColumns + v;
        if (columns - v > kLanes) {
          multiply_rows<kRows, 2>(a + r * depth, depth, b + v, block, add);
        } else {
          multiply_rows<kRows, 1>(a + r * depth, depth, b + v, block, add);
        }
      }
    }
  }

  static void widen(const uint16_t* from, float* to, int n) {
    for (int i = 0; i < n; ++i) {
      const uint32_t bits = static_cast<uint32_t>(from[i]) << 16;
      std::memcpy(to + i, &bits, sizeof bits);
    }
  }

  static uint16_t narrow(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
  }

  // AttentionKernel::expand.
  static void expand(const uint8_t* from, int head_dim, uint16_t* to) {
    const int values = kBlockTokens * head_dim;
    const auto* integers = reinterpret_cast<const int8_t*>(from);
    const auto* scales = reinterpret_cast<const float*>(from + 2 * values);
    for (int key = 0; key < kBlockTokens; ++key, integers += head_dim, to += head_dim) {
      for (int d = 0; d < head_dim; ++d) to[d] = narrow(integers[d] * scales[key]);
    }
    for (int d = 0; d < head_dim; ++d, integers += kBlockTokens, to += kBlockTokens) {
      for (int key = 0; key < kBlockTokens; ++key) to[key] = narrow(integers[key] * scales[kBlockTokens + key]);
    }
  }

  // AttentionKernel::span in float32, queries as QueryLayout::kFloat.
  static void span(const SpanArgs& a) {
    const auto* queries = static_cast<const float*>(a.queries);
    const int keys = a.blocks * kBlockTokens, block_elements = kBlockTokens * a.head_dim;
    float* scores = a.scratch;
    float* matrix = scores + kSpanTokens * kColumns;
    for (int b = 0; b < a.blocks; ++b) {
      float* block = scores + b * kBlockTokens * kColumns;
      widen(a.cache[b], matrix, block_elements);
      multiply(matrix, kBlockTokens, a.head_dim, queries, block, a.columns, false);
      mask(a, a.first_key + b * kBlockTokens, block);
      column_max(a, b == 0, block);
    }
    for (int c = 0; c < a.columns; c += kLanes) {
      const F m = load(a.max + c);
      F sum{};
      for (int key = 0; key < keys; ++key) {
        float* row = scores + key * kColumns + c;
        const F p = exp2(load(row) - m);
        store(row, p);
        sum += p;
      }
      store(a.sum + c, sum);
    }
    for (int b = 0; b < a.blocks; ++b) {
      widen(a.cache[b] + block_elements, matrix, block_elements);
      multiply(matrix, a.head_dim, kBlockTokens, scores + b * kBlockTokens * kColumns, a.out, a.columns, b > 0);
    }
  }
};

}  // namespace
}  // namespace gpt_oss

// What kernels for many tokens share, whatever their registers: some rows x some blocks of weights at a time are
// unpacked into a scratch that the L1 cache holds, and pass all tokens; meanwhile the next are fetched from memory.
// Included inside a kernel's own file, so that every copy is local.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels.h"
#include "matmul_common.h"

namespace gpt_oss {
namespace {

constexpr int kPanel = 64;  // rows; half of it, what swiglu leaves, is a whole block of the next product

using Layout = ByToken<kPanel>;

// Fetches a rectangle of a matrix, spread over `calls`: its rows lie far apart, which no hardware follows.
class Fetch {
 public:
  // `rows` rows of `bytes` each, row_bytes from one to the next; no rows, nothing to do.
  Fetch(const uint8_t* first, size_t row_bytes, int rows, size_t bytes, int calls)
      : at_(first),
        row_bytes_(row_bytes),
        lines_(static_cast<int>((bytes + 63) / 64)),
        rows_(std::max(rows, 0)),
        each_((lines_ * rows_ + calls - 1) / calls) {}

  void operator()() {
    for (int i = 0; i < each_ && rows_ > 0; ++i) {
      GPT_OSS_PREFETCH_L2(at_ + line_ * 64);
      if (++line_ == lines_) line_ = 0, --rows_, at_ += row_bytes_;
    }
  }

 private:
  const uint8_t* at_;
  size_t row_bytes_;
  int lines_, rows_, each_, line_ = 0;
};

// As many tokens as are left, at most N times Kernel::kStep.
template <class Kernel, int N, class... Rest>
inline void multiply_rest(const Kernel& kernel, int tokens, Rest&&... rest) {
  if constexpr (N > 1) {
    if (tokens < N * Kernel::kStep) return multiply_rest<Kernel, N - 1>(kernel, tokens, rest...);
  }
  kernel.template multiply<N>(rest...);
}

// ManyKernels' multiply, by a Kernel(w, packed) that has
//   WeightBlock                   a block of kRows rows, unpacked
//   kChunk                        blocks unpacked together
//   kStep, kTile                  token_tile, and how many of them a tile of the product has
//   kBlockBytes, row_bytes()      how the weights lie
//   unpack(row, block, count, WeightBlock*)    rows past the end are the last one again, which does no harm
//   multiply<N>(WeightBlock*, token, block, count, out, stride, fetch)    kRows rows times N * kStep tokens, added to
//     `out` unless `block` is the first; calls `fetch` once a block. Not inline, or gcc keeps its sums in memory.
template <class Kernel>
void multiply_chunks(const Rows& w, const void* packed, int tokens, float* out, void* scratch) {
  using Block = typename Kernel::WeightBlock;
  constexpr int kRows = Kernel::kRows, kTokens = Kernel::kStep * Kernel::kTile;
  static_assert(kPanel % kRows == 0);
  const Kernel kernel(w, packed);
  const int blocks = w.cols / kBlock;
  const size_t stride = Layout::stride(w.rows), row_bytes = kernel.row_bytes();
  auto* chunk = reinterpret_cast<Block*>((reinterpret_cast<uintptr_t>(scratch) + 63) / 64 * 64);
  for (int row = 0; row < w.rows; row += kRows) {
    for (int block = 0; block < blocks; block += Kernel::kChunk) {
      const int count = std::min(Kernel::kChunk, blocks - block);
      kernel.unpack(row, block, count, chunk);

      const bool last = block + count == blocks;
      const int next_row = last ? row + kRows : row, next_block = last ? 0 : block + count;
      Fetch fetch(static_cast<const uint8_t*>(w.blocks) + next_row * row_bytes + next_block * Kernel::kBlockBytes,
                  row_bytes, std::min(kRows, w.rows - next_row),
                  std::min(Kernel::kChunk, blocks - next_block) * Kernel::kBlockBytes,
                  count * ((tokens + kTokens - 1) / kTokens));
      for (int token = 0; token < tokens; token += kTokens) {
        multiply_rest<Kernel, Kernel::kTile>(kernel, tokens - token, chunk, token, block, count,
                                             out + token * stride + row, stride, fetch);
      }
    }
  }
}

template <class Kernel>
size_t chunk_bytes(int) {
  return Kernel::kChunk * sizeof(typename Kernel::WeightBlock) + 64;
}

}  // namespace
}  // namespace gpt_oss

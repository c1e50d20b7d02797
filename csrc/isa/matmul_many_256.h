// Many tokens on 256-bit registers: int8 activations (a scale for every 32) times MXFP4 or int8 weights, int32 sums in
// a block. As in matmul_many_avx512.cc: some rows x 512 columns of weights are unpacked once, as bytes
// [cols / 4][rows][4], and pass all tokens from the L1 cache, a tile of rows x tokens at a time, while the next piece is
// fetched from memory.
//
// A file that includes this brings what multiplies bytes, `Dot`:
//   kRegisters, kTokens          a tile: registers of 8 rows, and tokens
//   kOffset                      what the weights' bytes have too much; a token's start takes it back
//   kFlip                        0, or what Int8Weight's bytes are xored with
//   multiply(w, x, stride, dot)  dot[register][token] = start + the products of a block; x: a block of the first token
//   multiply(even, odd, …)       the same for a few tokens (matmul_few_256.h)
//
// FLOPs: 2 * rows * cols * tokens. Bytes: the rows once; for a tile's rows all tokens' (1.25 a value) from the L2 cache.
#pragma once

#include <algorithm>
#include <iterator>

#include "matmul_fetch.h"
#include "matmul_few_256.h"

namespace gpt_oss {
namespace {

constexpr int kPanel = 64;  // rows; half of it, what swiglu leaves, is a whole block of the next product
constexpr int kChunk = 16;  // blocks unpacked together: 16 KB for 32 rows, half an L1 cache
constexpr int kSteps = kBlock / 4;

using Layout = ByToken<kPanel>;

// 32 values of a token; every 8 of them as 0 2 4 6 1 3 5 7, the order that nibbles come in.
struct TokenBlock {
  int8_t values[kBlock];
  float scale;
  int32_t start;  // -offset * (sum of values)
};

template <int kRegisters>
struct alignas(32) WeightBlock {
  uint8_t values[kSteps][kRegisters][32];  // four columns, in TokenBlock's order, of 8 rows
  float scales[kRegisters][8];
};

inline __m256i four_of(const TokenBlock& x, int step) {
  int32_t word;
  std::memcpy(&word, x.values + 4 * step, 4);
  return _mm256_set1_epi32(word);
}

inline __m256i weights(const uint8_t (&values)[32]) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(values));
}

size_t packed_bytes(int tokens, int cols) { return static_cast<size_t>(tokens) * (cols / kBlock) * sizeof(TokenBlock); }

TokenBlock* token_blocks(void* packed, int token, int cols) {
  return static_cast<TokenBlock*>(packed) + static_cast<size_t>(token) * (cols / kBlock);
}

template <int kOffset>
inline void pack_block(const float* x, TokenBlock& out) {
  const __m256i order = twice(_mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15));
  const Quantised block = quantise(x);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out.values), _mm256_shuffle_epi8(block.bytes, order));
  out.scale = block.scale;
  out.start = -kOffset * block.sum;
}

template <int kOffset>
void pack_token(const float* const* x, int token, int cols, void* packed) {
  for (int b = 0; b < cols / kBlock; ++b) pack_block<kOffset>(x[0] + b * kBlock, token_blocks(packed, token, cols)[b]);
}

template <int kOffset>
void pack_inner(const float* active, int rows, int first, int tokens, int cols, void* packed) {
  for (int t = 0; t < tokens; ++t) {
    const float* row = active + t * Layout::stride(rows) / 2;
    TokenBlock* out = token_blocks(packed, t, cols) + first / kBlock;
    for (int b = 0; b < rows / 2 / kBlock; ++b) pack_block<kOffset>(row + b * kBlock, out[b]);
  }
}

// The same 16 bytes of 8 rows, as four registers that each hold four bytes of every row.
template <class Row>
inline void load_transposed(Row row, __m256i (&out)[4]) {
  __m256i z[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) z[i] = _mm256_set_m128i(load16(row(i + 4)), load16(row(i)));
  const __m256i low01 = _mm256_unpacklo_epi32(z[0], z[1]), high01 = _mm256_unpackhi_epi32(z[0], z[1]);
  const __m256i low23 = _mm256_unpacklo_epi32(z[2], z[3]), high23 = _mm256_unpackhi_epi32(z[2], z[3]);
  out[0] = _mm256_unpacklo_epi64(low01, low23);
  out[1] = _mm256_unpackhi_epi64(low01, low23);
  out[2] = _mm256_unpacklo_epi64(high01, high23);
  out[3] = _mm256_unpackhi_epi64(high01, high23);
}

// Eight rows of weights, those past the end being the last one again, which does no harm.
struct Eight {
  const uint8_t* values[8];
  const uint8_t* scales[8];
};

inline void store32(void* to, __m256i x) { _mm256_store_si256(static_cast<__m256i*>(to), x); }

template <class Dot>
struct Mxfp4Source {
  using Block = WeightBlock<Dot::kRegisters>;
  static constexpr size_t kBlockBytes = 16;

  static size_t row_bytes(const Rows& w) { return w.cols / kBlock * 16; }
  static size_t row_scale_bytes(const Rows& w) { return w.cols / kBlock; }

  static void values(const Eight& rows, int block, int at, Block& out) {
    const __m256i table = doubled_table(), mask = _mm256_set1_epi8(15);
    __m256i bytes[4];
    load_transposed([&](int r) { return rows.values[r] + block * 16; }, bytes);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      store32(out.values[2 * i][at], _mm256_shuffle_epi8(table, _mm256_and_si256(bytes[i], mask)));
      store32(out.values[2 * i + 1][at],
              _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(bytes[i], 4), mask)));
    }
  }

  // Of four blocks, fewer at a row's end. With the half that undoes the doubling; below 2^-126 they become zero.
  static void scales(const Eight& rows, int bias, int block, int count, int at, Block* out) {
    alignas(32) uint32_t words[8] = {};
    for (int r = 0; r < 8; ++r) std::memcpy(&words[r], rows.scales[r] + block, count == 4 ? 4 : count);
    __m256i bytes = _mm256_load_si256(reinterpret_cast<const __m256i*>(words));
    const __m256i zero = _mm256_setzero_si256();
    for (int b = 0; b < count; ++b, bytes = _mm256_srli_epi32(bytes, 8)) {
      const __m256i byte = _mm256_and_si256(bytes, _mm256_set1_epi32(255));
      const __m256i exponent = _mm256_max_epi32(_mm256_sub_epi32(byte, _mm256_set1_epi32(bias - 126)), zero);
      store32(out[b].scales[at], _mm256_slli_epi32(exponent, 23));
    }
  }
};

template <class Dot>
struct Int8Source {
  using Block = WeightBlock<Dot::kRegisters>;
  static constexpr size_t kBlockBytes = 32;

  static size_t row_bytes(const Rows& w) { return static_cast<size_t>(groups(w.cols)) * 128; }
  static size_t row_scale_bytes(const Rows& w) { return static_cast<size_t>(groups(w.cols)) * 8; }

  static void values(const Eight& rows, int block, int at, Block& out) {
    for (int odd = 0; odd < 2; ++odd) {
      __m256i bytes[4];
      load_transposed([&](int r) { return rows.values[r] + block / 4 * 128 + odd * 64 + block % 4 * 16; }, bytes);
      const __m256i flip = _mm256_set1_epi8(Dot::kFlip);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) store32(out.values[2 * i + odd][at], _mm256_xor_si256(bytes[i], flip));
    }
  }

  static void scales(const Eight& rows, int, int block, int count, int at, Block* out) {
    for (int b = 0; b < count; ++b) {
      for (int r = 0; r < 8; ++r) {
        uint16_t scale;
        std::memcpy(&scale, rows.scales[r] + 2 * (block + b), 2);
        out[b].scales[at][r] = from_bf16(scale);
      }
    }
  }
};

template <class Source>
void unpack(const Rows& w, int first, int first_block, int blocks, typename Source::Block* out) {
  for (int at = 0; at < static_cast<int>(std::size(out->scales)); ++at) {
    Eight rows;
    for (int r = 0; r < 8; ++r) {
      const size_t number = std::min(first + at * 8 + r, w.rows - 1);
      rows.values[r] = static_cast<const uint8_t*>(w.blocks) + number * Source::row_bytes(w);
      rows.scales[r] = static_cast<const uint8_t*>(w.scales) + number * Source::row_scale_bytes(w);
    }
    for (int b = 0; b < blocks; b += 4) {
      const int count = std::min(4, blocks - b);
      for (int i = 0; i < count; ++i) Source::values(rows, first_block + b + i, at, out[b + i]);
      Source::scales(rows, w.scale_bias, first_block + b, count, at, out + b);
    }
  }
}

// A tile's rows times N tokens, one chunk; `add` to what the chunks before left in `out`.
template <class Dot, int N>
void multiply_tile(const WeightBlock<Dot::kRegisters>* w, const TokenBlock* x, size_t x_stride, int blocks, bool add,
                   float* out, size_t stride, Fetch& fetch) {
  constexpr int R = Dot::kRegisters;
  __m256 sum[R][N];
#pragma GCC unroll 8
  for (int t = 0; t < N; ++t) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) sum[r][t] = add ? _mm256_loadu_ps(out + t * stride + r * 8) : _mm256_setzero_ps();
  }
  for (int b = 0; b < blocks; ++b, ++w, ++x) {
    __m256i dot[R][N];
    Dot::multiply(*w, x, x_stride, dot);
    // The next tokens: streams too short for the hardware to follow.
#pragma GCC unroll 8
    for (int t = 0; t < N; ++t) _mm_prefetch(reinterpret_cast<const char*>(x + (N + t) * x_stride), _MM_HINT_T0);
    fetch();
#pragma GCC unroll 8
    for (int t = 0; t < N; ++t) {
      const __m256 scale = _mm256_set1_ps(x[t * x_stride].scale);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m256 scales = _mm256_mul_ps(_mm256_load_ps(w->scales[r]), scale);
        sum[r][t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[r][t]), scales, sum[r][t]);
      }
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < N; ++t) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) _mm256_storeu_ps(out + t * stride + r * 8, sum[r][t]);
  }
}

// As many tokens as are left, at most N.
template <class Dot, int N, class... Rest>
inline void multiply_rest(int tokens, Rest&&... rest) {
  if constexpr (N > 1) {
    if (tokens < N) return multiply_rest<Dot, N - 1>(tokens, rest...);
  }
  multiply_tile<Dot, N>(rest...);
}

template <class Dot, class Source>
void multiply(const Rows& w, const void* packed, int tokens, float* out, void* scratch) {
  constexpr int kRows = 8 * Dot::kRegisters, kTokens = Dot::kTokens;
  static_assert(kPanel % kRows == 0);
  const int blocks = w.cols / kBlock;
  const size_t stride = Layout::stride(w.rows), row_bytes = Source::row_bytes(w);
  auto* chunk = reinterpret_cast<typename Source::Block*>((reinterpret_cast<uintptr_t>(scratch) + 63) / 64 * 64);
  const auto* x = static_cast<const TokenBlock*>(packed);
  for (int row = 0; row < w.rows; row += kRows) {
    for (int b = 0; b < blocks; b += kChunk) {
      const int count = std::min(kChunk, blocks - b);
      unpack<Source>(w, row, b, count, chunk);

      const bool last = b + kChunk >= blocks;
      const int next_row = last ? row + kRows : row, next_block = last ? 0 : b + kChunk;
      Fetch fetch(static_cast<const uint8_t*>(w.blocks) + next_row * row_bytes + next_block * Source::kBlockBytes,
                  row_bytes, std::min(kRows, w.rows - next_row),
                  std::min(kChunk, blocks - next_block) * Source::kBlockBytes,
                  count * ((tokens + kTokens - 1) / kTokens));
      for (int t = 0; t < tokens; t += kTokens) {
        multiply_rest<Dot, kTokens>(tokens - t, chunk, x + static_cast<size_t>(t) * blocks + b, blocks, count, b > 0,
                                    out + t * stride + row, stride, fetch);
      }
    }
  }
}

template <class Block>
size_t scratch_bytes(int) {
  return kChunk * sizeof(Block) + 64;
}

template <class Dot, class Source>
constexpr ManyKernels many_kernels() {
  return {kPanel,
          1,
          packed_bytes,
          scratch_bytes<typename Source::Block>,
          pack_token<Dot::kOffset>,
          multiply<Dot, Source>,
          Layout::swiglu,
          pack_inner<Dot::kOffset>,
          Layout::store};
}

}  // namespace
}  // namespace gpt_oss

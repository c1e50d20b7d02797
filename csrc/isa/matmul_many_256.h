// Many tokens on 256-bit registers: int8 activations (a scale for every 32) times MXFP4 or int8 weights, int32 sums in
// a block. As in matmul_many_avx512.cc: some rows x 512 columns of weights are unpacked once, as bytes
// [cols / 4][rows][4], and pass all tokens, a tile of rows x tokens at a time.
//
// A file that includes this brings what multiplies bytes, `Dot`:
//   kRegisters, kTokens          a tile: registers of 8 rows, and tokens
//   kOffset                      what the weights' bytes have too much; a token's start takes it back
//   kFlip                        0, or what Int8Weight's bytes are xored with
//   multiply(w, x, stride, dot)  dot[register][token] = start + the products of a block; x: a block of the first token
//   multiply(w, span)            the same for a few tokens (matmul_few_256.h)
//
// FLOPs: 2 * rows * cols * tokens. Bytes: the rows once; per tile of rows all tokens' (1.25 a value) from the L2 cache.
#pragma once

#include <algorithm>

#include "matmul_few_256.h"
#include "matmul_many.h"

namespace gpt_oss {
namespace {

constexpr int kSteps = kBlock / 4;

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

// Eight rows of weights.
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

template <class Dot, class Source>
struct ManyKernel {
  using WeightBlock = typename Source::Block;
  static constexpr int kRows = 8 * Dot::kRegisters, kStep = 1, kTile = Dot::kTokens;
  static constexpr int kChunk = 16;  // 16 KB for 32 rows, half an L1 cache
  static constexpr size_t kBlockBytes = Source::kBlockBytes;

  const Rows& w;
  const TokenBlock* x;
  size_t blocks;

  ManyKernel(const Rows& rows, const void* packed)
      : w(rows), x(static_cast<const TokenBlock*>(packed)), blocks(rows.cols / kBlock) {}

  size_t row_bytes() const { return Source::row_bytes(w); }

  void unpack(int first, int first_block, int count, WeightBlock* out) const {
    for (int at = 0; at < Dot::kRegisters; ++at) {
      Eight rows;
      for (int r = 0; r < 8; ++r) {
        const size_t number = std::min(first + at * 8 + r, w.rows - 1);
        rows.values[r] = static_cast<const uint8_t*>(w.blocks) + number * Source::row_bytes(w);
        rows.scales[r] = static_cast<const uint8_t*>(w.scales) + number * Source::row_scale_bytes(w);
      }
      for (int b = 0; b < count; ++b) Source::values(rows, first_block + b, at, out[b]);
      for (int b = 0; b < count; b += 4) {
        Source::scales(rows, w.scale_bias, first_block + b, std::min(4, count - b), at, out + b);
      }
    }
  }

  template <int N>
  GPT_OSS_NOINLINE void multiply(const WeightBlock* weight, int token, int block, int count, float* out, size_t stride,
                Fetch& fetch) const {
    constexpr int R = Dot::kRegisters;
    const TokenBlock* tokens = x + token * blocks + block;
    __m256 sum[R][N];
#pragma GCC unroll 8
    for (int t = 0; t < N; ++t) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        sum[r][t] = block > 0 ? _mm256_loadu_ps(out + t * stride + r * 8) : _mm256_setzero_ps();
      }
    }
    for (int b = 0; b < count; ++b, ++weight, ++tokens) {
      __m256i dot[R][N];
      Dot::multiply(*weight, tokens, blocks, dot);
      // The next tokens: streams too short for the hardware to follow.
#pragma GCC unroll 8
      for (int t = 0; t < N; ++t) GPT_OSS_PREFETCH(tokens + (N + t) * blocks);
      fetch();
#pragma GCC unroll 8
      for (int t = 0; t < N; ++t) {
        const __m256 scale = _mm256_set1_ps(tokens[t * blocks].scale);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const __m256 scales = _mm256_mul_ps(_mm256_load_ps(weight->scales[r]), scale);
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
};

template <class Dot, template <class> class Source>
constexpr ManyKernels many_kernels() {
  using Kernel = ManyKernel<Dot, Source<Dot>>;
  return {kPanel,
          Kernel::kStep,
          packed_bytes,
          chunk_bytes<Kernel>,
          pack_token<Dot::kOffset>,
          multiply_chunks<Kernel>,
          Layout::swiglu,
          pack_inner<Dot::kOffset>,
          Layout::store};
}

}  // namespace
}  // namespace gpt_oss

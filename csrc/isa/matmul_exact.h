// Many tokens in exact precision where nothing multiplies bf16: activations rounded to bf16 times bf16 or MXFP4
// weights, all as float32. Compiled for AVX2 and for AVX-512, each of which brings its registers (`Vector`).
//
// Two registers of rows x some columns of weights, 16 KB, are unpacked once, to floats [cols][rows], and pass all
// tokens from the L1 cache, as many at a time as there are registers for their sums.
//
// FLOPs: 2 * rows * cols * tokens. Bytes: the rows once; per two registers of rows all tokens' (4 a value) from L2.
#pragma once

#include <algorithm>

#include "matmul_256.h"
#include "matmul_many.h"

namespace gpt_oss {
namespace {

size_t packed_bytes(int tokens, int cols) { return static_cast<size_t>(tokens) * cols * sizeof(float); }

inline void pack_floats(const float* x, int count, float* out) {
  for (int i = 0; i < count; i += 8) _mm256_storeu_ps(out + i, round_bf16(_mm256_loadu_ps(x + i)));
}

void pack_token(const float* const* x, int token, int cols, void* packed) {
  pack_floats(x[0], cols, static_cast<float*>(packed) + static_cast<size_t>(token) * cols);
}

void pack_inner(const float* active, int rows, int first, int tokens, int cols, void* packed) {
  for (int t = 0; t < tokens; ++t) {
    pack_floats(active + t * Layout::stride(rows) / 2, rows / 2,
                static_cast<float*>(packed) + static_cast<size_t>(t) * cols + first);
  }
}

// A block of 8 rows to columns of 8 floats, `stride` floats from one to the next. A dword of nibbles has eight columns
// of a row.
struct Mxfp4Source {
  static constexpr size_t kBlockBytes = 16;

  static size_t row_bytes(const Rows& w) { return w.cols / kBlock * 16; }

  static void unpack(const Rows& w, const size_t (&row)[8], int block, float* out, size_t stride) {
    const size_t row_blocks = w.cols / kBlock;
    const __m256 table = _mm256_setr_ps(0, .5f, 1, 1.5f, 2, 3, 4, 6);
    const __m256i sign = _mm256_set1_epi32(static_cast<int>(0x80000000u));
    alignas(32) int32_t exponents[8];
    for (int r = 0; r < 8; ++r) {
      const int scale = static_cast<const uint8_t*>(w.scales)[row[r] * row_blocks + block];
      exponents[r] = std::max(scale - w.scale_bias + 127, 0);
    }
    const __m256 scale = _mm256_castsi256_ps(_mm256_slli_epi32(load32(exponents), 23));
    __m256i words[4];
    const auto* nibbles = static_cast<const uint8_t*>(w.blocks) + block * kBlockBytes;
    load_transposed([&](int r) { return nibbles + row[r] * row_bytes(w); }, words);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      __m256i word = words[i];
#pragma GCC unroll 8
      for (int k = 0; k < 8; ++k, word = _mm256_srli_epi32(word, 4)) {
        const __m256i negative = _mm256_and_si256(_mm256_slli_epi32(word, 28), sign);
        const __m256 size = _mm256_mul_ps(_mm256_permutevar8x32_ps(table, word), scale);
        _mm256_store_ps(out + (8 * i + k) * stride, _mm256_or_ps(size, _mm256_castsi256_ps(negative)));
      }
    }
  }
};

struct Bf16Source {
  static constexpr size_t kBlockBytes = 64;

  static size_t row_bytes(const Rows& w) { return static_cast<size_t>(w.cols) * sizeof(uint16_t); }

  static void unpack(const Rows& w, const size_t (&row)[8], int block, float* out, size_t stride) {
    const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    for (int i = 0; i < 4; ++i) {
      __m256i pairs[4];
      const auto* values = static_cast<const uint16_t*>(w.blocks) + block * kBlock + i * 8;
      load_transposed([&](int r) { return values + row[r] * w.cols; }, pairs);
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        _mm256_store_ps(out + (8 * i + 2 * k) * stride, _mm256_castsi256_ps(_mm256_slli_epi32(pairs[k], 16)));
        _mm256_store_ps(out + (8 * i + 2 * k + 1) * stride, _mm256_castsi256_ps(_mm256_and_si256(pairs[k], high)));
      }
    }
  }
};

// `Vector`: Register, kLanes, the tokens of a tile kTokens, zero(), load(p), store(p, x), broadcast(x), add(sum, w, x).
template <class Vector, class Source>
struct ManyKernel {
  static constexpr int kLanes = Vector::kLanes, kRows = 2 * kLanes, kStep = 1, kTile = Vector::kTokens;
  static constexpr int kChunk = 4096 / (kRows * kBlock);
  static constexpr size_t kBlockBytes = Source::kBlockBytes;

  struct alignas(64) WeightBlock {
    float values[kBlock][2][kLanes];
  };

  const Rows& w;
  const float* x;

  ManyKernel(const Rows& rows, const void* packed) : w(rows), x(static_cast<const float*>(packed)) {}

  size_t row_bytes() const { return Source::row_bytes(w); }

  void unpack(int first, int block, int count, WeightBlock* out) const {
    for (int at = 0; at < kRows; at += 8) {
      size_t rows[8];
      for (int r = 0; r < 8; ++r) rows[r] = std::min(first + at + r, w.rows - 1);
      for (int b = 0; b < count; ++b) Source::unpack(w, rows, block + b, out[b].values[0][0] + at, kRows);
    }
  }

  template <int N>
  GPT_OSS_NOINLINE void multiply(const WeightBlock* weight, int token, int block, int count, float* out, size_t stride,
                                  Fetch& fetch) const {
    const size_t cols = w.cols;
    const float* tokens = x + token * cols + block * kBlock;
    typename Vector::Register sum[2][N];
#pragma GCC unroll 16
    for (int t = 0; t < N; ++t) {
      sum[0][t] = block > 0 ? Vector::load(out + t * stride) : Vector::zero();
      sum[1][t] = block > 0 ? Vector::load(out + t * stride + kLanes) : Vector::zero();
    }
    for (int b = 0; b < count; ++b, ++weight, tokens += kBlock) {
#pragma GCC unroll 4
      for (int k = 0; k < kBlock; ++k) {
        const auto w0 = Vector::load(weight->values[k][0]), w1 = Vector::load(weight->values[k][1]);
#pragma GCC unroll 16
        for (int t = 0; t < N; ++t) {
          const auto value = Vector::broadcast(tokens[t * cols + k]);
          sum[0][t] = Vector::add(sum[0][t], w0, value);
          sum[1][t] = Vector::add(sum[1][t], w1, value);
        }
      }
      // The next tokens: streams too short for the hardware to follow.
#pragma GCC unroll 16
      for (int t = 0; t < N; ++t) {
        GPT_OSS_PREFETCH(tokens + (N + t) * cols);
        GPT_OSS_PREFETCH(tokens + (N + t) * cols + kBlock / 2);
      }
      fetch();
    }
#pragma GCC unroll 16
    for (int t = 0; t < N; ++t) {
      Vector::store(out + t * stride, sum[0][t]);
      Vector::store(out + t * stride + kLanes, sum[1][t]);
    }
  }
};

template <class Vector, class Source>
constexpr ManyKernels many_kernels() {
  using Kernel = ManyKernel<Vector, Source>;
  return {kPanel, Kernel::kStep, packed_bytes, chunk_bytes<Kernel>, pack_token, multiply_chunks<Kernel>, Layout::swiglu,
          pack_inner, Layout::store};
}

}  // namespace
}  // namespace gpt_oss

// Many tokens on AVX-512 VNNI: int8 activations (a scale for every 32) times MXFP4 or int8 weights, int32 sums in a block.
//
// Sixteen rows of weights are unpacked once, to unsigned bytes [cols / 4][16 rows][4], and pass all tokens from the cache;
// tokens come in tiles of 8, whose bytes are broadcast four at a time by the multiplying instruction itself. The weights'
// offset is taken back by where a block's sum starts. A block of 16 rows x 32 values x 1 token is 8 vpdpbusd and 4 more
// instructions (start, convert, scale, add).
//
// FLOPs: 2 * rows * cols * tokens. Bytes: the rows once; per 16 rows all tokens' bytes from the L2 cache.
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "bf16.h"
#include "kernels.h"

namespace gpt_oss {
namespace {

constexpr int kRows = 16;   // of a register
constexpr int kPanel = 64;  // rows; half of it, what swiglu leaves, is a whole block of the next product
constexpr int kTile = 8;    // tokens

// 32 values of 8 tokens.
struct alignas(64) TokenBlock {
  int8_t values[kTile][kBlock];
  float scale[kTile];
  int32_t start[kTile];
};

size_t packed_bytes(int tokens, int cols) {
  return static_cast<size_t>((tokens + kTile - 1) / kTile) * (cols / kBlock) * sizeof(TokenBlock);
}

// Bytes and scales of 16 unpacked rows.
size_t scratch_bytes(int cols) { return static_cast<size_t>(kRows) * cols + kRows * sizeof(float) * (cols / kBlock) + 64; }

inline void quantise(__m512 first, __m512 second, int offset, int token, TokenBlock& out) {
  const __m512 sign = _mm512_set1_ps(-0.0f);
  const float greatest =
      _mm512_reduce_max_ps(_mm512_max_ps(_mm512_andnot_ps(sign, first), _mm512_andnot_ps(sign, second)));
  const __m512 inverse = _mm512_set1_ps(greatest > 0 ? 127 / greatest : 0);
  const __m512i low = _mm512_cvtps_epi32(_mm512_mul_ps(first, inverse));
  const __m512i high = _mm512_cvtps_epi32(_mm512_mul_ps(second, inverse));
  _mm_store_si128(reinterpret_cast<__m128i*>(out.values[token]), _mm512_cvtepi32_epi8(low));
  _mm_store_si128(reinterpret_cast<__m128i*>(out.values[token] + 16), _mm512_cvtepi32_epi8(high));
  out.scale[token] = greatest / 127;
  out.start[token] = -offset * _mm512_reduce_add_epi32(_mm512_add_epi32(low, high));
}

template <int kOffset>
void pack(const float* const* x, int tile, int cols, void* packed) {
  TokenBlock* out = static_cast<TokenBlock*>(packed) + static_cast<size_t>(tile) * (cols / kBlock);
  for (int b = 0; b < cols / kBlock; ++b) {
    for (int t = 0; t < kTile; ++t) {
      const bool there = x[t] != nullptr;
      const __m512 first = there ? _mm512_loadu_ps(x[t] + b * kBlock) : _mm512_setzero_ps();
      const __m512 second = there ? _mm512_loadu_ps(x[t] + b * kBlock + 16) : _mm512_setzero_ps();
      quantise(first, second, kOffset, t, out[b]);
    }
  }
}

template <int kOffset>
void pack_tokens(const float* x, size_t stride, int first, int count, int tokens, int cols, void* packed) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i column = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(static_cast<int>(stride)));
  for (int t = 0; t < tokens; ++t) {
    TokenBlock* out = static_cast<TokenBlock*>(packed) + static_cast<size_t>(t / kTile) * (cols / kBlock);
    for (int c = 0; c < count; c += kBlock) {
      const float* at = x + c * stride + t;
      quantise(_mm512_i32gather_ps(column, at, 4), _mm512_i32gather_ps(column, at + 16 * stride, 4), kOffset, t % kTile,
               out[(first + c) / kBlock]);
    }
  }
}

// A row's 32 values as unsigned bytes in natural order, from the even and the odd ones.
inline __m256i interleave(__m128i even, __m128i odd) {
  return _mm256_set_m128i(_mm_unpackhi_epi8(even, odd), _mm_unpacklo_epi8(even, odd));
}

struct Mxfp4Source {
  static constexpr int kOffset = kMxfp4Offset;

  static __m256i values(const Rows& w, size_t row, int b) {
    const __m128i table = _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0);
    const __m128i mask = _mm_set1_epi8(15);
    const auto* at = static_cast<const uint8_t*>(w.blocks) + (row * (w.cols / kBlock) + b) * 16;
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
    return interleave(_mm_shuffle_epi8(table, _mm_and_si128(bytes, mask)),
                      _mm_shuffle_epi8(table, _mm_and_si128(_mm_srli_epi16(bytes, 4), mask)));
  }

  static float scale(const Rows& w, size_t row, int b) {  // with the half that undoes the doubling
    const int exponent = static_cast<const uint8_t*>(w.scales)[row * (w.cols / kBlock) + b] - w.scale_bias + 126;
    const uint32_t bits = static_cast<uint32_t>(std::max(exponent, 0)) << 23;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
};

struct Int8Source {
  static constexpr int kOffset = kInt8Offset;

  static __m256i values(const Rows& w, size_t row, int b) {
    const auto* at = static_cast<const uint8_t*>(w.blocks) + (row * groups(w.cols) + b / 4) * 128 + b % 4 * 16;
    return interleave(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)),
                      _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + 64)));
  }

  static float scale(const Rows& w, size_t row, int b) {
    return from_bf16(static_cast<const uint16_t*>(w.scales)[row * groups(w.cols) * 4 + b]);
  }
};

// [16 rows][8 dwords] to [8][16 rows]: two 8 x 8 transpositions side by side.
inline void transpose(const __m256i (&row)[kRows], uint8_t* out) {
  __m512i z[8], t[8], u[8];
  for (int i = 0; i < 8; ++i) z[i] = _mm512_inserti64x4(_mm512_castsi256_si512(row[i]), row[i + 8], 1);
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm512_unpacklo_epi32(z[i], z[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(z[i], z[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    u[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    u[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    u[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    u[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13), high = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
  for (int i = 0; i < 4; ++i) {
    _mm512_store_si512(out + i * 64, _mm512_permutex2var_epi64(u[i], low, u[i + 4]));
    _mm512_store_si512(out + (i + 4) * 64, _mm512_permutex2var_epi64(u[i], high, u[i + 4]));
  }
}

// Rows [first, first + 16) of w, those that it lacks as zeros.
template <class Source>
void unpack(const Rows& w, int first, uint8_t* values, float* scales) {
  const int count = std::min(kRows, w.rows - first);
  for (int b = 0; b < w.cols / kBlock; ++b) {
    __m256i row[kRows];
    for (int r = 0; r < kRows; ++r) {
      const bool there = r < count;
      row[r] = there ? Source::values(w, first + r, b) : _mm256_set1_epi8(static_cast<char>(Source::kOffset));
      scales[b * kRows + r] = there ? Source::scale(w, first + r, b) : 0.0f;
    }
    transpose(row, values + b * kRows * kBlock);
  }
}

// 16 rows times 8 tokens.
inline void multiply_tile(const uint8_t* values, const float* scales, const TokenBlock* x, int blocks, float* out,
                          size_t stride) {
  __m512 sum[kTile];
#pragma GCC unroll 8
  for (int t = 0; t < kTile; ++t) sum[t] = _mm512_setzero_ps();
  for (int b = 0; b < blocks; ++b) {
    const TokenBlock& block = x[b];
    const uint8_t* from = values + b * kRows * kBlock;
    __m512i dot[kTile];
#pragma GCC unroll 8
    for (int t = 0; t < kTile; ++t) dot[t] = _mm512_set1_epi32(block.start[t]);
#pragma GCC unroll 8
    for (int k = 0; k < kBlock / 4; ++k) {
      const __m512i w = _mm512_load_si512(from + k * 64);
#pragma GCC unroll 8
      for (int t = 0; t < kTile; ++t) {
        dot[t] = _mm512_dpbusd_epi32(dot[t], w, _mm512_set1_epi32(reinterpret_cast<const int32_t*>(block.values[t])[k]));
      }
    }
    const __m512 scale = _mm512_load_ps(scales + b * kRows);
#pragma GCC unroll 8
    for (int t = 0; t < kTile; ++t) {
      sum[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[t]), _mm512_mul_ps(scale, _mm512_set1_ps(block.scale[t])), sum[t]);
    }
  }
  alignas(64) float columns[kTile][kRows];
  for (int t = 0; t < kTile; ++t) _mm512_store_ps(columns[t], sum[t]);
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kTile; ++t) out[r * stride + t] = columns[t][r];
  }
}

template <class Source>
void multiply(const Rows& w, const void* packed, int tokens, float* out, size_t stride, void* scratch) {
  const int blocks = w.cols / kBlock, tiles = tokens / kTile;
  auto* values = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(scratch) + 63) / 64 * 64);
  auto* scales = reinterpret_cast<float*>(values + static_cast<size_t>(kRows) * w.cols);
  const auto* x = static_cast<const TokenBlock*>(packed);
  for (int row = 0; row < w.rows; row += kRows) {
    unpack<Source>(w, row, values, scales);
    for (int tile = 0; tile < tiles; ++tile) {
      multiply_tile(values, scales, x + static_cast<size_t>(tile) * blocks, blocks, out + row * stride + tile * kTile,
                    stride);
    }
  }
}

template <class Source>
constexpr ManyKernels kernels_of() {
  return {kPanel,        kTile, packed_bytes, scratch_bytes, pack<Source::kOffset>, pack_tokens<Source::kOffset>,
          multiply<Source>};
}

}  // namespace

const ManyKernels& avx512_mxfp4_int8() {
  static constexpr ManyKernels kernels = kernels_of<Mxfp4Source>();
  return kernels;
}

const ManyKernels& avx512_int8() {
  static constexpr ManyKernels kernels = kernels_of<Int8Source>();
  return kernels;
}

}  // namespace gpt_oss

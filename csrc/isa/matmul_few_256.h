// The matrix kernels for a few tokens on 256-bit registers, compiled once for AVX2 and once for AVX-VNNI: only the
// integer product of bytes differs, which each of their files defines (`Dot`, below).
//
// Bytes: the rows' own (MXFP4 0.53 a weight, int8 1.06, bf16 2), once for 8 tokens. FLOPs: 2 a weight and token.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "bf16.h"
#include "kernels.h"
#include "matmul_256.h"
#include "matmul_common.h"
#include "matmul_few.h"

namespace gpt_oss {
namespace {

// 2 * e2m1 + 12, for each nibble.
inline __m256i doubled_table() {
  return twice(_mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
}

// Not with = {}, which gcc makes a call out of.
template <int N>
inline void clear(__m256 (&sum)[N]) {
#pragma GCC unroll 8
  for (int i = 0; i < N; ++i) sum[i] = _mm256_setzero_ps();
}

inline float reduce_add(__m256 x) {
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

inline float reduce_max(__m256 x) {
  __m128 most = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  most = _mm_max_ps(most, _mm_movehl_ps(most, most));
  return _mm_cvtss_f32(_mm_max_ss(most, _mm_movehdup_ps(most)));
}

inline int reduce_add(__m256i x) {
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1)));
}

// A block of 32 values as bytes, in order: value = byte * scale.
struct Quantised {
  __m256i bytes;
  float scale;
  int sum;  // of the bytes
};

inline Quantised quantise(const float* x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  __m256 value[4], most = _mm256_setzero_ps();
  for (int i = 0; i < 4; ++i) {
    value[i] = _mm256_loadu_ps(x + 8 * i);
    most = _mm256_max_ps(most, _mm256_andnot_ps(sign, value[i]));
  }
  const float greatest = reduce_max(most);
  const __m256 inverse = _mm256_set1_ps(greatest > 0 ? 127 / greatest : 0);
  __m256i whole[4], sum = _mm256_setzero_si256();
  for (int i = 0; i < 4; ++i) {
    whole[i] = _mm256_cvtps_epi32(_mm256_mul_ps(value[i], inverse));
    sum = _mm256_add_epi32(sum, whole[i]);
  }
  // Packing works on each half of the registers: its dwords come out as 0 2 4 6 1 3 5 7.
  const __m256i mixed =
      _mm256_packs_epi16(_mm256_packs_epi32(whole[0], whole[1]), _mm256_packs_epi32(whole[2], whole[3]));
  const __m256i bytes = _mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  return {bytes, greatest / 127, reduce_add(sum)};
}

void pack_int8(const float* x, int cols, int offset, void* packed) {
  auto* out = static_cast<Int8Group*>(packed);
  const __m256i even_odd = twice(_mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
  for (int g = 0; g < groups(cols); ++g) {
    Int8Group& group = out[g];
    std::memset(&group, 0, sizeof group);
    for (int b = 0; b < 4 && g * 128 + b * kBlock < cols; ++b) {
      const Quantised block = quantise(x + g * 128 + b * kBlock);
      const __m256i split = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(block.bytes, even_odd), 0xd8);
      _mm_store_si128(reinterpret_cast<__m128i*>(group.even + b * 16), _mm256_castsi256_si128(split));
      _mm_store_si128(reinterpret_cast<__m128i*>(group.odd + b * 16), _mm256_extracti128_si256(split, 1));
      group.start[4 * b] = -offset * block.sum;
      _mm_store_ps(group.scale + 4 * b, _mm_set1_ps(block.scale));
    }
  }
}

// Blocks of float32: the 16 even values, then the odd ones.
void pack_exact(const float* x, int cols, void* packed) {
  auto* out = static_cast<float*>(packed);
  const auto in_order = [](__m256 v) { return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(v), 0xd8)); };
  for (int i = 0; i < cols; i += 16) {
    const __m256 low = round_bf16(_mm256_loadu_ps(x + i)), high = round_bf16(_mm256_loadu_ps(x + i + 8));
    float* to = out + i / kBlock * kBlock + i % kBlock / 2;
    _mm256_storeu_ps(to, in_order(_mm256_shuffle_ps(low, high, 0x88)));
    _mm256_storeu_ps(to + 16, in_order(_mm256_shuffle_ps(low, high, 0xdd)));
  }
}

// The float lanes of two blocks' scales, each four times, from 2^(byte - bias); below 2^-126 they become zero.
inline __m256 expand_scales(const uint8_t* p, int count, __m256i bias) {
  const __m128i spread = _mm_setr_epi8(0, 0, 0, 0, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1);
  const int word = count == 2 ? p[0] | p[1] << 8 : p[0];
  const __m256i byte = _mm256_cvtepu8_epi32(_mm_shuffle_epi8(_mm_cvtsi32_si128(word), spread));
  const __m256i exponent = _mm256_max_epi32(_mm256_sub_epi32(byte, bias), _mm256_setzero_si256());
  return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}

// Half a group, two blocks of weights, times the same half of N columns. `product` makes 8 sums of the 64 products,
// four for each block; it is Dot::mxfp4(even, odd, x_even, x_odd, start), or Dot::int8 of Int8Weight's bytes.
template <int N, class Product>
inline void add_half(__m256 scale, const Int8Group* const (&x)[N], int half, __m256 (&sum)[N], Product product) {
#pragma GCC unroll 8
  for (int c = 0; c < N; ++c) {
    const Int8Group& group = x[c][half / 2];
    const int byte = half % 2 * 32, lane = half % 2 * 8;
    const __m256i dot = product(load32(group.even + byte), load32(group.odd + byte), load32(group.start + lane));
    const __m256 scales = _mm256_mul_ps(scale, _mm256_load_ps(group.scale + lane));
    sum[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scales, sum[c]);
  }
}

template <class Dot, int N>
void mxfp4_int8_row(const uint8_t* nibbles, const uint8_t* scales, int blocks, int bias, const Int8Group* const (&x)[N],
                    float (&out)[N]) {
  const __m256i table = doubled_table(), mask = _mm256_set1_epi8(15);
  const __m256i exponent_bias = _mm256_set1_epi32(bias - 127 + 1);  // and the half that undoes the doubling
  __m256 sum[N];
  clear(sum);
  const auto add = [&](int half, __m256i bytes, int count) {
    const __m256i even = _mm256_shuffle_epi8(table, _mm256_and_si256(bytes, mask));
    const __m256i odd = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask));
    add_half<N>(expand_scales(scales + half * 2, count, exponent_bias), x, half, sum,
                [&](auto... column) { return Dot::multiply(even, odd, column...); });
  };
  for (int half = 0; half < blocks / 2; ++half) {
    _mm_prefetch(reinterpret_cast<const char*>(nibbles) + half * 32 + 1536, _MM_HINT_T0);
    add(half, load32(nibbles + half * 32), 2);
  }
  // A missing block reads as zero bytes: its activations are zeros, and so is its start.
  if (blocks % 2 != 0) add(blocks / 2, _mm256_zextsi128_si256(load16(nibbles + blocks / 2 * 32)), 1);
#pragma GCC unroll 8
  for (int c = 0; c < N; ++c) out[c] = reduce_add(sum[c]);
}

template <class Dot, int N>
void int8_int8_row(const uint8_t* values, const uint16_t* scales, int n, const Int8Group* const (&x)[N],
                   float (&out)[N]) {
  const __m128i spread = _mm_setr_epi8(0, 1, 0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3, 2, 3);
  __m256 sum[N];
  clear(sum);
  for (int half = 0; half < 2 * n; ++half) {
    const uint8_t* at = values + half / 2 * 128 + half % 2 * 32;
    _mm_prefetch(reinterpret_cast<const char*>(values) + half * 64 + 2048, _MM_HINT_T0);
    int word;
    std::memcpy(&word, scales + half * 2, 4);
    const __m256i bf16 = _mm256_cvtepu16_epi32(_mm_shuffle_epi8(_mm_cvtsi32_si128(word), spread));
    const __m256i even = load32(at), odd = load32(at + 64);
    add_half<N>(_mm256_castsi256_ps(_mm256_slli_epi32(bf16, 16)), x, half, sum,
                [&](auto... column) { return Dot::multiply(even, odd, column...); });
  }
#pragma GCC unroll 8
  for (int c = 0; c < N; ++c) out[c] = reduce_add(sum[c]);
}

// A block's weights as floats, even and odd ones of the first half and of the second, times a column as pack_exact
// leaves it. Summed apart from other blocks, or a row would wait for one addition after the other.
inline __m256 block_dot(const __m256 (&w)[4], const float* x) {
  __m256 dot = _mm256_mul_ps(w[0], _mm256_loadu_ps(x));
  dot = _mm256_fmadd_ps(w[1], _mm256_loadu_ps(x + 16), dot);
  dot = _mm256_fmadd_ps(w[2], _mm256_loadu_ps(x + 8), dot);
  return _mm256_fmadd_ps(w[3], _mm256_loadu_ps(x + 24), dot);
}

template <int N>
void mxfp4_exact_row(const uint8_t* nibbles, const uint8_t* scales, int blocks, int bias, const float* const (&x)[N],
                     float (&out)[N]) {
  const __m128i table = _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);  // twice the values
  const __m128i mask = _mm_set1_epi8(15);
  const auto widen = [](__m128i v) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v)); };
  __m256 sum[N];
  clear(sum);
  for (int b = 0; b < blocks; ++b) {
    _mm_prefetch(reinterpret_cast<const char*>(nibbles) + b * 16 + 1536, _MM_HINT_T0);
    const __m128i bytes = load16(nibbles + b * 16);
    const int exponent = scales[b] - bias + 127 - 1;
    const __m256 scale = _mm256_castsi256_ps(_mm256_set1_epi32((exponent > 0 ? exponent : 0) << 23));
    const __m128i even = _mm_shuffle_epi8(table, _mm_and_si128(bytes, mask));
    const __m128i odd = _mm_shuffle_epi8(table, _mm_and_si128(_mm_srli_epi16(bytes, 4), mask));
    const __m256 w[4] = {widen(even), widen(odd), widen(_mm_unpackhi_epi64(even, even)),
                         widen(_mm_unpackhi_epi64(odd, odd))};
#pragma GCC unroll 8
    for (int c = 0; c < N; ++c) sum[c] = _mm256_fmadd_ps(block_dot(w, x[c] + b * kBlock), scale, sum[c]);
  }
#pragma GCC unroll 8
  for (int c = 0; c < N; ++c) out[c] = reduce_add(sum[c]);
}

template <int N>
void bf16_exact_row(const uint16_t* row, int cols, const float* const (&x)[N], float (&out)[N]) {
  const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  const auto even = [](__m256i v) { return _mm256_castsi256_ps(_mm256_slli_epi32(v, 16)); };
  const auto odd = [&](__m256i v) { return _mm256_castsi256_ps(_mm256_and_si256(v, high)); };
  __m256 sum[N];
  clear(sum);
  for (int b = 0; b < cols; b += kBlock) {
    _mm_prefetch(reinterpret_cast<const char*>(row + b) + 2048, _MM_HINT_T0);
    const __m256i first = load32(row + b), second = load32(row + b + 16);
    const __m256 w[4] = {even(first), odd(first), even(second), odd(second)};
#pragma GCC unroll 8
    for (int c = 0; c < N; ++c) sum[c] = _mm256_add_ps(block_dot(w, x[c] + b), sum[c]);
  }
#pragma GCC unroll 8
  for (int c = 0; c < N; ++c) out[c] = reduce_add(sum[c]);
}

template <class Dot>
void mxfp4_int8(const Rows& w, const void* const* columns, int count, float* out, size_t stride) {
  const size_t blocks = w.cols / kBlock;
  few<Int8Group>(w, columns, count, out, stride, [&](size_t r, const auto& x, auto& result) {
    mxfp4_int8_row<Dot>(static_cast<const uint8_t*>(w.blocks) + r * blocks * 16,
                        static_cast<const uint8_t*>(w.scales) + r * blocks, static_cast<int>(blocks), w.scale_bias, x,
                        result);
  });
}

template <class Dot>
void int8_int8(const Rows& w, const void* const* columns, int count, float* out, size_t stride) {
  const size_t n = groups(w.cols);
  few<Int8Group>(w, columns, count, out, stride, [&](size_t r, const auto& x, auto& result) {
    int8_int8_row<Dot>(static_cast<const uint8_t*>(w.blocks) + r * n * 128,
                       static_cast<const uint16_t*>(w.scales) + r * n * 4, static_cast<int>(n), x, result);
  });
}

void mxfp4_exact(const Rows& w, const void* const* columns, int count, float* out, size_t stride) {
  const size_t blocks = w.cols / kBlock;
  few<float>(w, columns, count, out, stride, [&](size_t r, const auto& x, auto& result) {
    mxfp4_exact_row(static_cast<const uint8_t*>(w.blocks) + r * blocks * 16,
                    static_cast<const uint8_t*>(w.scales) + r * blocks, static_cast<int>(blocks), w.scale_bias, x,
                    result);
  });
}

void bf16_exact(const Rows& w, const void* const* columns, int count, float* out, size_t stride) {
  few<float>(w, columns, count, out, stride, [&](size_t r, const auto& x, auto& result) {
    bf16_exact_row(static_cast<const uint16_t*>(w.blocks) + r * w.cols, w.cols, x, result);
  });
}

}  // namespace
}  // namespace gpt_oss

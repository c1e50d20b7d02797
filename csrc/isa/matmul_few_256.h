// The matrix kernels for a few tokens on 256-bit registers, compiled once for AVX2 and once for AVX-VNNI: only the
// integer product of bytes differs, which each of their files defines (`Dot`, below).
//
// int8 activations: 8 blocks, a span, are taken together. Their weights are transposed so that a lane has all of one
// block, and a block costs a token 1/8 of one conversion, one product of scales and one addition.
//
// Bytes: the rows' own (MXFP4 0.53 a weight, int8 1.06, bf16 2), once for all tokens. FLOPs: 2 a weight and token.
#pragma once

#include <immintrin.h>

#include <algorithm>
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

constexpr int kSpan = 8;      // blocks whose int8 products are taken together, a lane for each
constexpr int kAhead = 2048;  // bytes of a row's stream, fetched before they are needed
constexpr int kScalesAhead = 512;

// 256 activations. Lane 4b + g belongs to block 2g + b: a register holds two blocks of weights, and four registers are
// transposed within their halves, b. values[4 * odd + j]: four values of each block, from place 8j + odd on by twos.
struct alignas(64) Span {
  int8_t values[8][32];
  int32_t start[kSpan];  // -offset * (sum of the block), which takes the weights' offset back
  float scale[kSpan];
};

constexpr int lane_of(int block) { return block % 2 * 4 + block / 2; }

constexpr int spans(int cols) { return (cols / kBlock + kSpan - 1) / kSpan; }

size_t int8_bytes(int cols) { return spans(cols) * sizeof(Span); }

void pack_int8(const float* x, int cols, int offset, void* packed) {
  auto* out = static_cast<Span*>(packed);
  const __m256i even_odd = twice(_mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
  std::memset(out + spans(cols) - 1, 0, sizeof(Span));
  for (int b = 0; b < cols / kBlock; ++b) {
    Span& span = out[b / kSpan];
    const int lane = lane_of(b % kSpan);
    const Quantised block = quantise(x + b * kBlock);
    alignas(32) int8_t fours[8][4];
    const __m256i split = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(block.bytes, even_odd), 0xd8);
    _mm256_store_si256(reinterpret_cast<__m256i*>(fours), split);
    for (int i = 0; i < 8; ++i) std::memcpy(span.values[i] + 4 * lane, fours[i], 4);
    span.start[lane] = -offset * block.sum;
    span.scale[lane] = block.scale;
  }
}

void unpack_int8(const void* packed, int cols, double* out) {
  const auto* x = static_cast<const Span*>(packed);
  for (int i = 0; i < cols; ++i) {
    const Span& span = x[i / kBlock / kSpan];
    const int lane = lane_of(i / kBlock % kSpan), place = i % kBlock;
    const int8_t value = span.values[place % 2 * 4 + place / 8][4 * lane + place % 8 / 2];
    out[i] = static_cast<double>(span.scale[lane]) * value;
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

// `bytes` of 32, all or half or none; the others are zero.
inline __m256i load(const uint8_t* p, int bytes) {
  if (bytes >= 32) return load32(p);
  return bytes >= 16 ? _mm256_zextsi128_si256(load16(p)) : _mm256_setzero_si256();
}

// Lane 4b + g of w[j] becomes lane 4b + j of w[g].
inline void transpose(__m256i (&w)[4]) {
  const __m256i a = _mm256_unpacklo_epi32(w[0], w[1]), b = _mm256_unpackhi_epi32(w[0], w[1]);
  const __m256i c = _mm256_unpacklo_epi32(w[2], w[3]), d = _mm256_unpackhi_epi32(w[2], w[3]);
  w[0] = _mm256_unpacklo_epi64(a, c);
  w[1] = _mm256_unpackhi_epi64(a, c);
  w[2] = _mm256_unpacklo_epi64(b, d);
  w[3] = _mm256_unpackhi_epi64(b, d);
}

inline void fetch_line(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

// Eight bytes to floats 2^(byte - bias - 127); below 2^-126 they become zero.
inline __m256 powers(__m128i bytes, __m256i bias) {
  const __m256i exponent = _mm256_sub_epi32(_mm256_cvtepu8_epi32(bytes), bias);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_max_epi32(exponent, _mm256_setzero_si256()), 23));
}

// What follows reads rows of weights, span by span, as Span has its values. `left` is the number of blocks from the
// span's first on.

class Mxfp4Row {
 public:
  Mxfp4Row(const Rows& w, int row)
      : nibbles_(static_cast<const uint8_t*>(w.blocks) + static_cast<size_t>(row) * (w.cols / kBlock) * 16),
        scales_(static_cast<const uint8_t*>(w.scales) + static_cast<size_t>(row) * (w.cols / kBlock)),
        bias_(_mm256_set1_epi32(w.scale_bias - 127 + 1)) {}  // and the half that undoes the doubling

  inline void read(int span, int left, __m256i (&w)[8]) const {
    const __m256i table = doubled_table(), mask = _mm256_set1_epi8(15);
    const uint8_t* from = nibbles_ + span * 128;
    fetch_line(from + kAhead);
    fetch_line(from + kAhead + 64);
    __m256i bytes[4];
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) bytes[g] = load(from + g * 32, left * 16 - g * 32);
    transpose(bytes);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      w[j] = _mm256_shuffle_epi8(table, _mm256_and_si256(bytes[j], mask));
      w[4 + j] = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(bytes[j], 4), mask));
    }
  }

  inline __m256 scales(int span, int left) const {
    const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, -1, -1, -1, -1, -1, -1, -1, -1);
    int64_t word = 0;
    std::memcpy(&word, scales_ + span * kSpan, left >= kSpan ? kSpan : left);
    fetch_line(scales_ + span * kSpan + kScalesAhead);
    return powers(_mm_shuffle_epi8(_mm_cvtsi64_si128(word), order), bias_);
  }

 private:
  const uint8_t *nibbles_, *scales_;
  __m256i bias_;
};

template <int kFlip>
class Int8Row {
 public:
  Int8Row(const Rows& w, int row)
      : values_(static_cast<const uint8_t*>(w.blocks) + Int8Weight::value_bytes(row, w.cols)),
        scales_(static_cast<const uint16_t*>(w.scales) + Int8Weight::scale_count(row, w.cols)) {}

  inline void read(int span, int left, __m256i (&w)[8]) const {
    const uint8_t* from = values_ + span * 256;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) fetch_line(from + kAhead + i * 64);
#pragma GCC unroll 2
    for (int odd = 0; odd < 2; ++odd) {
      __m256i bytes[4];
#pragma GCC unroll 4
      for (int g = 0; g < 4; ++g) {
        bytes[g] = load(from + g / 2 * 128 + odd * 64 + g % 2 * 32, left > g / 2 * 4 ? 32 : 0);
      }
      transpose(bytes);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) w[4 * odd + j] = _mm256_xor_si256(bytes[j], _mm256_set1_epi8(kFlip));
    }
  }

  inline __m256 scales(int span, int left) const {
    const uint16_t* from = scales_ + span * kSpan;
    const __m128i bf16 = left > 4 ? load16(from) : _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    const __m256i wide = _mm256_slli_epi32(_mm256_cvtepu16_epi32(bf16), 16);
    fetch_line(from + kScalesAhead);
    return _mm256_castsi256_ps(_mm256_permutevar8x32_epi32(wide, _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7)));
  }

 private:
  const uint8_t* values_;
  const uint16_t* scales_;
};

// sum += one span of a row times N tokens, of which Dot::multiply(w, span) makes the products of a lane's block.
template <class Dot, class Row, int N>
inline void add_span(const Row& row, int span, int left, const Span* const (&x)[N], __m256 (&sum)[N]) {
  __m256i w[8];
  row.read(span, left, w);
  const __m256 scale = row.scales(span, left);
#pragma GCC unroll 4
  for (int c = 0; c < N; ++c) {
    const __m256 both = _mm256_mul_ps(scale, _mm256_load_ps(x[c][span].scale));
    sum[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(Dot::multiply(w, x[c][span])), both, sum[c]);
  }
}

// Two rows at a time, from the two halves of the matrix: the hardware fetches ahead of a stream only within a page, so
// that two streams come faster than one.
template <class Dot, class Row>
void times_int8(const Rows& w, const void* const* columns, int count, float* out, size_t stride) {
  const int blocks = w.cols / kBlock, whole = blocks / kSpan, left = blocks % kSpan, half = (w.rows + 1) / 2;
  for_columns<Span, 4>(columns, count, out, stride, [&]<int N>(const Span* const (&x)[N], float* to) {
    for (int r = 0; r < half; ++r) {
      const int second = std::min(r + half, w.rows - 1);  // the middle one of an odd number is computed twice
      const Row a(w, r), b(w, second);
      __m256 sum_a[N], sum_b[N];
      clear(sum_a);
      clear(sum_b);
      for (int span = 0; span < whole; ++span) {
        add_span<Dot>(a, span, kSpan, x, sum_a);
        add_span<Dot>(b, span, kSpan, x, sum_b);
      }
      if (left != 0) {
        add_span<Dot>(a, whole, left, x, sum_a);
        add_span<Dot>(b, whole, left, x, sum_b);
      }
#pragma GCC unroll 4
      for (int c = 0; c < N; ++c) {
        to[c * stride + r] = reduce_add(sum_a[c]);
        to[c * stride + second] = reduce_add(sum_b[c]);
      }
    }
  });
}

// A block's weights as floats, even and odd ones of the first half and of the second, times a column as pack_exact
// leaves it. Summed apart from other blocks, or a row would wait for one addition after the other.
inline __m256 block_dot(const __m256 (&w)[4], const float* x) {
  __m256 dot = _mm256_mul_ps(w[0], _mm256_loadu_ps(x));
  dot = _mm256_fmadd_ps(w[1], _mm256_loadu_ps(x + 16), dot);
  dot = _mm256_fmadd_ps(w[2], _mm256_loadu_ps(x + 8), dot);
  return _mm256_fmadd_ps(w[3], _mm256_loadu_ps(x + 24), dot);
}

// Nibbles become twice their values as bytes, which lie as the highest of an int32 when they are converted.
template <int N>
void mxfp4_exact_row(const uint8_t* nibbles, const uint8_t* scales, int blocks, int bias, const float* const (&x)[N],
                     float (&out)[N]) {
  const __m256i table = twice(_mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12));
  const __m256i mask = _mm256_set1_epi8(15);
  const __m256i low = _mm256_setr_epi8(-1, -1, -1, 0, -1, -1, -1, 1, -1, -1, -1, 2, -1, -1, -1, 3,  //
                                       -1, -1, -1, 4, -1, -1, -1, 5, -1, -1, -1, 6, -1, -1, -1, 7);
  const __m256i high = _mm256_or_si256(low, _mm256_set1_epi32(0x08000000));
  const auto floats = [](__m256i v, __m256i which) { return _mm256_cvtepi32_ps(_mm256_shuffle_epi8(v, which)); };
  constexpr float kUnit = 1.0f / (1 << 25);
  __m256 sum[N];
  clear(sum);
  for (int first = 0; first < blocks; first += kSpan) {
    const int count = std::min(kSpan, blocks - first);
    alignas(32) float power[kSpan];
    int64_t word = 0;
    std::memcpy(&word, scales + first, count == kSpan ? kSpan : count);
    _mm256_store_ps(power, powers(_mm_cvtsi64_si128(word), _mm256_set1_epi32(bias - 127)));
    for (int b = first; b < first + count; ++b) {
      fetch_line(nibbles + b * 16 + kAhead);
      const __m256i bytes = twice(load16(nibbles + b * 16));
      const __m256i even = _mm256_shuffle_epi8(table, _mm256_and_si256(bytes, mask));
      const __m256i odd = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask));
      const __m256 w[4] = {floats(even, low), floats(odd, low), floats(even, high), floats(odd, high)};
      const __m256 scale = _mm256_broadcast_ss(power + b - first);
#pragma GCC unroll 8
      for (int c = 0; c < N; ++c) sum[c] = _mm256_fmadd_ps(block_dot(w, x[c] + b * kBlock), scale, sum[c]);
    }
  }
#pragma GCC unroll 8
  for (int c = 0; c < N; ++c) out[c] = reduce_add(sum[c]) * kUnit;
}

template <int N>
void bf16_exact_row(const uint16_t* row, int cols, const float* const (&x)[N], float (&out)[N]) {
  const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  const auto even = [](__m256i v) { return _mm256_castsi256_ps(_mm256_slli_epi32(v, 16)); };
  const auto odd = [&](__m256i v) { return _mm256_castsi256_ps(_mm256_and_si256(v, high)); };
  __m256 sum[N];
  clear(sum);
  for (int b = 0; b < cols; b += kBlock) {
    fetch_line(row + b + kAhead / 2);
    const __m256i first = load32(row + b), second = load32(row + b + 16);
    const __m256 w[4] = {even(first), odd(first), even(second), odd(second)};
#pragma GCC unroll 8
    for (int c = 0; c < N; ++c) sum[c] = _mm256_add_ps(block_dot(w, x[c] + b), sum[c]);
  }
#pragma GCC unroll 8
  for (int c = 0; c < N; ++c) out[c] = reduce_add(sum[c]);
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

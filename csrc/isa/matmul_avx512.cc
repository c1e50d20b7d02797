// The matrix kernels for AVX-512 with VNNI.
//
// A few tokens: bytes = the rows' own (MXFP4 0.53 a weight, int8 1.06, bf16 2), FLOPs = 2 a weight and token. For one
// token 128 MXFP4 weights cost about 14 instructions for 68 bytes, faster than memory delivers them.
#include <immintrin.h>

#include <cmath>
#include <type_traits>

#include "bf16.h"
#include "kernels.h"
#include "matmul_common.h"

namespace gpt_oss {
namespace {

// 2 * e2m1 + 12, for each nibble.
inline __m512i doubled_table() {
  return _mm512_broadcast_i32x4(_mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
}

// Four bytes to 16 floats 2^(byte - bias), each four times; below 2^-126 they become zero.
inline __m512 expand_scales(uint32_t bytes, __m512i bias) {
  const __m128i spread = _mm_setr_epi8(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  const __m512i exponent =
      _mm512_sub_epi32(_mm512_cvtepu8_epi32(_mm_shuffle_epi8(_mm_cvtsi32_si128(static_cast<int>(bytes)), spread)), bias);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_max_epi32(exponent, _mm512_setzero_si512()), 23));
}

inline uint32_t load_tail(const uint8_t* p, int bytes) {
  uint32_t word = 0;
  __builtin_memcpy(&word, p, bytes);
  return word;
}

inline uint32_t load_word(const uint8_t* p) {
  uint32_t word;
  __builtin_memcpy(&word, p, 4);
  return word;
}

void pack_int8(const float* x, int cols, int offset, Int8Group* out) {
  const __m512 sign = _mm512_set1_ps(-0.0f);
  // Bytes 0, 4, 8 … of the even, then of the odd, dwords.
  for (int g = 0; g < groups(cols); ++g) {
    Int8Group& group = out[g];
    __builtin_memset(&group, 0, sizeof group);
    for (int b = 0; b < 4 && g * 128 + b * kBlock < cols; ++b) {
      const float* values = x + g * 128 + b * kBlock;
      const __m512 first = _mm512_loadu_ps(values), second = _mm512_loadu_ps(values + 16);
      const float greatest =
          _mm512_reduce_max_ps(_mm512_max_ps(_mm512_andnot_ps(sign, first), _mm512_andnot_ps(sign, second)));
      const float scale = greatest / 127, inverse = greatest > 0 ? 127 / greatest : 0;
      const __m512i low = _mm512_cvtps_epi32(_mm512_mul_ps(first, _mm512_set1_ps(inverse)));
      const __m512i high = _mm512_cvtps_epi32(_mm512_mul_ps(second, _mm512_set1_ps(inverse)));
      const __m512i evens = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
      const __m512i odds = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
      _mm_store_si128(reinterpret_cast<__m128i*>(group.even + b * 16),
                      _mm512_cvtepi32_epi8(_mm512_permutex2var_epi32(low, evens, high)));
      _mm_store_si128(reinterpret_cast<__m128i*>(group.odd + b * 16),
                      _mm512_cvtepi32_epi8(_mm512_permutex2var_epi32(low, odds, high)));
      group.start[4 * b] = -offset * _mm512_reduce_add_epi32(_mm512_add_epi32(low, high));
      _mm_store_ps(group.scale + 4 * b, _mm_set1_ps(scale));
    }
  }
}

inline __m512 round_bf16(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
  return _mm512_castsi512_ps(_mm512_and_si512(rounded, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}

// Blocks of float32: the 16 even values, then the odd ones.
void pack_exact(const float* x, int cols, void* packed) {
  auto* out = static_cast<float*>(packed);
  const __m512i evens = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odds = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  for (int b = 0; b < cols; b += kBlock) {
    const __m512 low = round_bf16(_mm512_loadu_ps(x + b)), high = round_bf16(_mm512_loadu_ps(x + b + 16));
    _mm512_storeu_ps(out + b, _mm512_permutex2var_ps(low, evens, high));
    _mm512_storeu_ps(out + b + 16, _mm512_permutex2var_ps(low, odds, high));
  }
}

// Runs f(integral constant N) with N = min(count, 8) columns until all columns are done.
template <class F>
inline void for_columns(int count, F f) {
  int c = 0;
  for (; count - c >= 8; c += 8) f(std::integral_constant<int, 8>(), c);
  switch (count - c) {
    case 1: f(std::integral_constant<int, 1>(), c); break;
    case 2: f(std::integral_constant<int, 2>(), c); break;
    case 3: f(std::integral_constant<int, 3>(), c); break;
    case 4: f(std::integral_constant<int, 4>(), c); break;
    case 5: f(std::integral_constant<int, 5>(), c); break;
    case 6: f(std::integral_constant<int, 6>(), c); break;
    case 7: f(std::integral_constant<int, 7>(), c); break;
    default: break;
  }
}

// One group of 128 weights, unpacked to unsigned bytes, times the same group of N columns.
template <int N>
inline void add_group(__m512i even, __m512i odd, __m512 scale, const Int8Group* const (&x)[N], int g, __m512 (&sum)[N]) {
#pragma GCC unroll 8
  for (int c = 0; c < N; ++c) {
    const Int8Group& group = x[c][g];
    __m512i dot = _mm512_dpbusd_epi32(_mm512_load_si512(group.start), even, _mm512_load_si512(group.even));
    dot = _mm512_dpbusd_epi32(dot, odd, _mm512_load_si512(group.odd));
    sum[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(scale, _mm512_load_ps(group.scale)), sum[c]);
  }
}

template <int N>
void mxfp4_int8_row(const uint8_t* nibbles, const uint8_t* scales, int blocks, int bias, const Int8Group* const (&x)[N],
                    float (&out)[N]) {
  const __m512i table = doubled_table(), mask = _mm512_set1_epi8(15);
  const __m512i exponent_bias = _mm512_set1_epi32(bias - 127 + 1);  // and the half that undoes the doubling
  __m512 sum[N];
#pragma GCC unroll 8
  for (int c = 0; c < N; ++c) sum[c] = _mm512_setzero_ps();
  int g = 0;
  for (; g < blocks / 4; ++g) {
    _mm_prefetch(reinterpret_cast<const char*>(nibbles) + g * 64 + 1536, _MM_HINT_T0);
    const __m512i bytes = _mm512_loadu_si512(nibbles + g * 64);
    const __m512i even = _mm512_shuffle_epi8(table, _mm512_and_si512(bytes, mask));
    const __m512i odd = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(bytes, 4), mask));
    add_group<N>(even, odd, expand_scales(load_word(scales + g * 4), exponent_bias), x, g, sum);
  }
  if (const int tail = blocks % 4; tail != 0) {
    // Missing blocks read as zero bytes: their activations are zeros, and so are their starts.
    const __m512i bytes = _mm512_maskz_loadu_epi8((1ull << tail * 16) - 1, nibbles + g * 64);
    const __m512i even = _mm512_shuffle_epi8(table, _mm512_and_si512(bytes, mask));
    const __m512i odd = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(bytes, 4), mask));
    add_group<N>(even, odd, expand_scales(load_tail(scales + g * 4, tail), exponent_bias), x, g, sum);
  }
#pragma GCC unroll 8
  for (int c = 0; c < N; ++c) out[c] = _mm512_reduce_add_ps(sum[c]);
}

template <int N>
void mxfp4_exact_row(const uint8_t* nibbles, const uint8_t* scales, int blocks, int bias, const float* const (&x)[N],
                     float (&out)[N]) {
  const __m512 table = _mm512_setr_ps(0, .5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -.5f, -1, -1.5f, -2, -3, -4, -6);
  __m512 sum[N];
#pragma GCC unroll 8
  for (int c = 0; c < N; ++c) sum[c] = _mm512_setzero_ps();
  for (int b = 0; b < blocks; ++b) {
    _mm_prefetch(reinterpret_cast<const char*>(nibbles) + b * 16 + 1536, _MM_HINT_T0);
    const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(nibbles + b * 16)));
    const int exponent = scales[b] - bias + 127;
    const __m512 scale = _mm512_castsi512_ps(_mm512_set1_epi32((exponent > 0 ? exponent : 0) << 23));
    const __m512 even = _mm512_mul_ps(_mm512_permutexvar_ps(bytes, table), scale);
    const __m512 odd = _mm512_mul_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 4), table), scale);
#pragma GCC unroll 8
    for (int c = 0; c < N; ++c) {
      sum[c] = _mm512_fmadd_ps(even, _mm512_loadu_ps(x[c] + b * kBlock), sum[c]);
      sum[c] = _mm512_fmadd_ps(odd, _mm512_loadu_ps(x[c] + b * kBlock + 16), sum[c]);
    }
  }
#pragma GCC unroll 8
  for (int c = 0; c < N; ++c) out[c] = _mm512_reduce_add_ps(sum[c]);
}

template <int N>
void int8_int8_row(const uint8_t* values, const uint16_t* scales, int n, const Int8Group* const (&x)[N], float (&out)[N]) {
  const __m512i spread = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  __m512 sum[N];
#pragma GCC unroll 8
  for (int c = 0; c < N; ++c) sum[c] = _mm512_setzero_ps();
  for (int g = 0; g < n; ++g) {
    _mm_prefetch(reinterpret_cast<const char*>(values) + g * 128 + 2048, _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(values) + g * 128 + 2112, _MM_HINT_T0);
    const __m128i four = _mm_cvtepu16_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(scales + g * 4)));
    const __m512i wide = _mm512_permutexvar_epi32(spread, _mm512_castsi128_si512(_mm_slli_epi32(four, 16)));
    add_group<N>(_mm512_loadu_si512(values + g * 128), _mm512_loadu_si512(values + g * 128 + 64),
                 _mm512_castsi512_ps(wide), x, g, sum);
  }
#pragma GCC unroll 8
  for (int c = 0; c < N; ++c) out[c] = _mm512_reduce_add_ps(sum[c]);
}

template <int N>
void bf16_exact_row(const uint16_t* row, int cols, const float* const (&x)[N], float (&out)[N]) {
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  __m512 sum[N];
#pragma GCC unroll 8
  for (int c = 0; c < N; ++c) sum[c] = _mm512_setzero_ps();
  for (int b = 0; b < cols; b += kBlock) {
    _mm_prefetch(reinterpret_cast<const char*>(row + b) + 2048, _MM_HINT_T0);
    const __m512i pairs = _mm512_loadu_si512(row + b);
    const __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    const __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(pairs, high));
#pragma GCC unroll 8
    for (int c = 0; c < N; ++c) {
      sum[c] = _mm512_fmadd_ps(even, _mm512_loadu_ps(x[c] + b), sum[c]);
      sum[c] = _mm512_fmadd_ps(odd, _mm512_loadu_ps(x[c] + b + 16), sum[c]);
    }
  }
#pragma GCC unroll 8
  for (int c = 0; c < N; ++c) out[c] = _mm512_reduce_add_ps(sum[c]);
}

// Calls row(r, x[N], out[N]) for every row and every set of at most 8 columns.
template <class Column, class Row>
inline void few(const Rows& w, const void* const* columns, int count, float* out, size_t stride, Row row) {
  for_columns(count, [&](auto n, int first) {
    constexpr int N = decltype(n)::value;
    const Column* x[N];
    for (int c = 0; c < N; ++c) x[c] = static_cast<const Column*>(columns[first + c]);
    for (int r = 0; r < w.rows; ++r) {
      float result[N];
      row(n, r, x, result);
      for (int c = 0; c < N; ++c) out[(first + c) * stride + r] = result[c];
    }
  });
}

void mxfp4_int8(const Rows& w, const void* const* columns, int count, float* out, size_t stride) {
  const size_t blocks = w.cols / kBlock;
  few<Int8Group>(w, columns, count, out, stride, [&](auto n, size_t r, const auto& x, auto& result) {
    mxfp4_int8_row<decltype(n)::value>(static_cast<const uint8_t*>(w.blocks) + r * blocks * 16,
                                       static_cast<const uint8_t*>(w.scales) + r * blocks, static_cast<int>(blocks),
                                       w.scale_bias, x, result);
  });
}

void mxfp4_exact(const Rows& w, const void* const* columns, int count, float* out, size_t stride) {
  const size_t blocks = w.cols / kBlock;
  few<float>(w, columns, count, out, stride, [&](auto n, size_t r, const auto& x, auto& result) {
    mxfp4_exact_row<decltype(n)::value>(static_cast<const uint8_t*>(w.blocks) + r * blocks * 16,
                                        static_cast<const uint8_t*>(w.scales) + r * blocks, static_cast<int>(blocks),
                                        w.scale_bias, x, result);
  });
}

void int8_int8(const Rows& w, const void* const* columns, int count, float* out, size_t stride) {
  const size_t n_groups = groups(w.cols);
  few<Int8Group>(w, columns, count, out, stride, [&](auto n, size_t r, const auto& x, auto& result) {
    int8_int8_row<decltype(n)::value>(static_cast<const uint8_t*>(w.blocks) + r * n_groups * 128,
                                      static_cast<const uint16_t*>(w.scales) + r * n_groups * 4,
                                      static_cast<int>(n_groups), x, result);
  });
}

void bf16_exact(const Rows& w, const void* const* columns, int count, float* out, size_t stride) {
  few<float>(w, columns, count, out, stride, [&](auto n, size_t r, const auto& x, auto& result) {
    bf16_exact_row<decltype(n)::value>(static_cast<const uint16_t*>(w.blocks) + r * w.cols, w.cols, x, result);
  });
}

}  // namespace

const Kernels& avx512_kernels() {
  static constexpr Kernels kernels = {Isa::avx512, pack_int8,  pack_exact, mxfp4_int8, mxfp4_exact, int8_int8,
                                      bf16_exact, swiglu_row, nullptr,    nullptr,    nullptr,     nullptr};
  return kernels;
}

}  // namespace gpt_oss

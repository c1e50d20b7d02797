// Attention whose two products take bfloat16 pairs and sum in float32; the softmax between them, with AVX-512.
// The products are the including file's: isa/attention_avx512bf16.cc (vdpbf16ps), isa/attention_amx.cc (tiles).
//
//   Product::begin(), end()               around all others
//   Product::scores(args, block, scores)  scores [kBlockTokens][kColumns] = K . queries
//   Product::outputs(args, scores)        args.sum, and args.out [head_dim][kColumns] = sum over blocks of V . exp2(scores - max);
//                                         calls exponentiate(args, block, column, ...) for each 16 columns of each block
#pragma once

#include <immintrin.h>

#include <bit>

#include "attention_tile.h"

namespace gpt_oss {
namespace {

// Elements of a row of [..][kColumns][2] bfloat16: of queries, and of weights, which lie where the even rows of the
// scores lay that they were made of, so that all of a span stays in the L1 cache.
inline constexpr int kQueryRow = 2 * kColumns;
inline constexpr int kWeightRow = 4 * kColumns;
inline constexpr int kWeightBlock = kBlockTokens / 2 * kWeightRow;

// 2^x = 2^floor(x) 2^f; 2^f on [0, 1] as a minimax cubic: relative error 9e-5, a twentieth of a bfloat16 rounding.
inline __m512 exp2_bf16(__m512 x) {
  const __m512 f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  __m512 p = _mm512_set1_ps(7.706704e-2f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.2764499e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9511679e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, x);
}

// Lanes of `even` and `odd` as bfloat16, side by side.
inline __m512i pair_bf16(__m512 even, __m512 odd) {
  const __m512i half = _mm512_set1_epi32(0x8000);
  const __m512i low = _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(even), half), 16);
  const __m512i high = _mm512_add_epi32(_mm512_castps_si512(odd), half);
  return _mm512_mask_blend_epi16(0xAAAAAAAA, low, high);
}

// Turns 16 columns of one block's scores, from `column` on, into weights exp2(score - max); adds them up in `sums`
// before they are rounded.
inline void exponentiate(const SpanArgs& a, int block, int column, float* scores, __m512 (&sums)[2]) {
  const __m512 m = _mm512_loadu_ps(a.max + column);
  float* row = scores + block * kBlockTokens * kColumns + column;
  for (int key = 0; key < kBlockTokens; key += 2, row += 2 * kColumns) {
    const __m512 even = exp2_bf16(_mm512_sub_ps(_mm512_loadu_ps(row), m));
    const __m512 odd = exp2_bf16(_mm512_sub_ps(_mm512_loadu_ps(row + kColumns), m));
    sums[0] = _mm512_add_ps(sums[0], even);
    sums[1] = _mm512_add_ps(sums[1], odd);
    _mm512_storeu_si512(row, pair_bf16(even, odd));
  }
}

// 32 integers times a scale each, rounded.
inline void expand_32(const int8_t* from, __m512 low_scales, __m512 high_scales, uint16_t* to) {
  const auto floats = [from](int at) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + at))));
  };
  const __m512 low = floats(0), high = floats(16);
  const __m512bh both = _mm512_cvtne2ps_pbh(_mm512_mul_ps(high, high_scales), _mm512_mul_ps(low, low_scales));
  _mm512_storeu_si512(to, std::bit_cast<__m512i>(both));
}

// AttentionKernel::expand. Where head_dim is no multiple of 32, what a key leaves behind its end is written over by the
// key or the value that comes after it.
inline void expand_bf16(const uint8_t* from, int head_dim, uint16_t* to) {
  const int values = kBlockTokens * head_dim;
  const auto* integers = reinterpret_cast<const int8_t*>(from);
  const auto* scales = reinterpret_cast<const float*>(from + 2 * values);
  for (int key = 0; key < kBlockTokens; ++key, integers += head_dim, to += head_dim) {
    const __m512 scale = _mm512_set1_ps(scales[key]);
    for (int d = 0; d < head_dim; d += 32) expand_32(integers + d, scale, scale, to + d);
  }
  const __m512 low = _mm512_loadu_ps(scales + kBlockTokens), high = _mm512_loadu_ps(scales + kBlockTokens + 16);
  for (int d = 0; d < head_dim; ++d) expand_32(integers + d * kBlockTokens, low, high, to + d * kBlockTokens);
}

// AttentionKernel::span, queries as QueryLayout::kBf16Pairs.
template <class Product>
void span_bf16(const SpanArgs& a) {
  float* scores = a.scratch;
  Product::begin();
  for (int b = 0; b < a.blocks; ++b) {
    float* block = scores + b * kBlockTokens * kColumns;
    Product::scores(a, b, block);
    Tile<16>::mask(a, a.first_key + b * kBlockTokens, block);
    Tile<16>::column_max(a, b == 0, block);
  }
  Product::outputs(a, scores);
  Product::end();
}

}  // namespace
}  // namespace gpt_oss

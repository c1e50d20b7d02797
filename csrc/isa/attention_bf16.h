// Attention whose two products take bfloat16 pairs and sum in float32; the softmax between them, with AVX-512.
// The products are the including file's: isa/attention_avx512bf16.cc (vdpbf16ps), isa/attention_amx.cc (tiles).
//
//   Product::begin(), end()               around all others
//   Product::scores(args, block, scores)  scores [kBlockTokens][kColumns] = K . queries
//   Product::outputs(args, weights)       args.out [head_dim][kColumns] = sum over blocks of V . weights
#pragma once

#include <immintrin.h>

#include "attention_tile.h"

namespace gpt_oss {
namespace {

inline constexpr int kPairRow = 2 * kColumns;  // elements of a row of [..][kColumns][2] bfloat16

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

// weights [keys / 2][kColumns][2] = exp2(scores - max); a.sum their sums before rounding.
inline void exponentiate(const SpanArgs& a, int keys, const float* scores, uint16_t* weights) {
  for (int c = 0; c < a.columns; c += 16) {
    const __m512 m = _mm512_loadu_ps(a.max + c);
    __m512 even_sum = _mm512_setzero_ps(), odd_sum = _mm512_setzero_ps();
    for (int key = 0; key < keys; key += 2) {
      const float* row = scores + key * kColumns + c;
      const __m512 even = exp2_bf16(_mm512_sub_ps(_mm512_loadu_ps(row), m));
      const __m512 odd = exp2_bf16(_mm512_sub_ps(_mm512_loadu_ps(row + kColumns), m));
      even_sum = _mm512_add_ps(even_sum, even);
      odd_sum = _mm512_add_ps(odd_sum, odd);
      _mm512_storeu_si512(weights + key / 2 * kPairRow + 2 * c, pair_bf16(even, odd));
    }
    _mm512_storeu_ps(a.sum + c, _mm512_add_ps(even_sum, odd_sum));
  }
}

// AttentionKernel::span, queries as QueryLayout::kBf16Pairs.
template <class Product>
void span_bf16(const SpanArgs& a) {
  const int keys = a.blocks * kBlockTokens;
  float* scores = a.scratch;
  auto* weights = reinterpret_cast<uint16_t*>(scores + kSpanTokens * kColumns);
  Product::begin();
  for (int b = 0; b < a.blocks; ++b) {
    float* block = scores + b * kBlockTokens * kColumns;
    Product::scores(a, b, block);
    Tile<16>::mask(a, a.first_key + b * kBlockTokens, block);
  }
  Tile<16>::column_max(a, keys, scores);
  exponentiate(a, keys, scores, weights);
  Product::outputs(a, weights);
  Product::end();
}

}  // namespace
}  // namespace gpt_oss

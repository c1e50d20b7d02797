// Attention with vdpbf16ps: two multiply-adds a lane. Twice as fast as float32 on AMD's Zen 4 and 5; on Intel's cores
// it is slow, but those have AMX.
#include "attention_bf16.h"

namespace gpt_oss {
namespace {

// sums[row] (+)= sum_k pair (a[row][2k], a[row][2k + 1]) . pairs[k][column], of kRows rows and kVectors x 16 columns.
template <int kRows, int kVectors>
void accumulate(__m512 (&sums)[kRows][kVectors], const uint16_t* a, int a_row, int depth, const uint16_t* pairs,
                int pairs_row) {
  for (int k = 0; k < depth; k += 2) {
    __m512bh right[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      right[v] = std::bit_cast<__m512bh>(_mm512_loadu_si512(pairs + k / 2 * pairs_row + 32 * v));
    }
    for (int r = 0; r < kRows; ++r) {
      int32_t pair;
      std::memcpy(&pair, a + r * a_row + k, sizeof pair);
      const auto left = std::bit_cast<__m512bh>(_mm512_set1_epi32(pair));
      for (int v = 0; v < kVectors; ++v) sums[r][v] = _mm512_dpbf16_ps(sums[r][v], left, right[v]);
    }
  }
}

struct VectorProduct {
  static constexpr int kRows = 8;

  static void begin() {}
  static void end() {}

  template <int kVectors>
  static void store(float* to, const __m512 (&sums)[kRows][kVectors]) {
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) _mm512_storeu_ps(to + r * kColumns + 16 * v, sums[r][v]);
    }
  }

  template <int kVectors>
  static void scores_of(const SpanArgs& a, int block, float* scores) {
    const auto* queries = static_cast<const uint16_t*>(a.queries);
    for (int key = 0; key < kBlockTokens; key += kRows) {
      __m512 sums[kRows][kVectors] = {};
      accumulate(sums, a.cache[block] + key * a.head_dim, a.head_dim, a.head_dim, queries, kQueryRow);
      store(scores + key * kColumns, sums);
    }
  }

  template <int kVectors>
  static void outputs_of(const SpanArgs& a, const uint16_t* weights) {
    for (int d = 0; d < a.head_dim; d += kRows) {
      __m512 sums[kRows][kVectors] = {};
      for (int b = 0; b < a.blocks; ++b) {
        const uint16_t* values = a.cache[b] + (a.head_dim + d) * kBlockTokens;
        accumulate(sums, values, kBlockTokens, kBlockTokens, weights + b * kWeightBlock, kWeightRow);
      }
      store(a.out + d * kColumns, sums);
    }
  }

  static void scores(const SpanArgs& a, int block, float* scores) {
    a.columns > 16 ? scores_of<2>(a, block, scores) : scores_of<1>(a, block, scores);
  }
  static void outputs(const SpanArgs& a, float* scores) {
    for (int c = 0; c < a.columns; c += 16) {
      __m512 sums[2] = {};
      for (int b = 0; b < a.blocks; ++b) exponentiate(a, b, c, scores, sums);
      _mm512_storeu_ps(a.sum + c, _mm512_add_ps(sums[0], sums[1]));
    }
    const auto* weights = reinterpret_cast<const uint16_t*>(scores);
    a.columns > 16 ? outputs_of<2>(a, weights) : outputs_of<1>(a, weights);
  }
};

}  // namespace

extern const AttentionKernel kAttention_avx512bf16{"avx512-bf16", QueryLayout::kBf16Pairs, 8, span_bf16<VectorProduct>,
                                                   Tile<16>::merge, expand_bf16};

}  // namespace gpt_oss

// Attention with AMX: tiles of 16 x 32 bfloat16 by 32 x 16 into 16 x 16 float32, four sums in flight. The left operand
// is read from the cache as it lies.
#include "attention_bf16.h"

namespace gpt_oss {
namespace {

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr TileConfig kTileConfig;

constexpr int kScoreBytes = kColumns * sizeof(float);  // a row of scores, of outputs, of queries
constexpr int kWeightBytes = 2 * kWeightRow;

struct TileProduct {
  static void begin() { _tile_loadconfig(&kTileConfig); }
  static void end() { _tile_release(); }

  // Tiles 0 to 3: scores of keys 0-15 and 16-31 by columns 0-15 and 16-31; 4, 5: keys; 6, 7: queries.
  template <bool kWide>
  static void scores_of(const SpanArgs& a, int block, float* scores) {
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (kWide) {
      _tile_zero(2);
      _tile_zero(3);
    }
    for (int d = 0; d < a.head_dim; d += 32) {
      const uint16_t* keys = a.cache[block] + d;
      const uint16_t* queries = static_cast<const uint16_t*>(a.queries) + d / 2 * kQueryRow;
      _tile_loadd(4, keys, 2 * a.head_dim);
      _tile_loadd(6, queries, kScoreBytes);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(5, keys + 16 * a.head_dim, 2 * a.head_dim);
      _tile_dpbf16ps(1, 5, 6);
      if constexpr (kWide) {
        _tile_loadd(7, queries + 32, kScoreBytes);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
      }
    }
    _tile_stored(0, scores, kScoreBytes);
    _tile_stored(1, scores + 16 * kColumns, kScoreBytes);
    if constexpr (kWide) {
      _tile_stored(2, scores + 16, kScoreBytes);
      _tile_stored(3, scores + 16 * kColumns + 16, kScoreBytes);
    }
  }

  static void scores(const SpanArgs& a, int block, float* scores) {
    a.columns > 16 ? scores_of<true>(a, block, scores) : scores_of<false>(a, block, scores);
  }

  // 16 columns at a time, 64 dimensions (tiles 0 to 3) at a time; the exponentials of a block, made on the way of the
  // first 64, overlap with the products of the block before.
  static void outputs(const SpanArgs& a, float* scores) {
    for (int c = 0; c < a.columns; c += 16) {
      __m512 sums[2] = {};
      for (int d = 0; d < a.head_dim; d += 64) {
        const bool whole = d + 64 <= a.head_dim;  // else 32
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int b = 0; b < a.blocks; ++b) {
          if (d == 0) exponentiate(a, b, c, scores, sums);
          const uint16_t* values = a.cache[b] + (a.head_dim + d) * kBlockTokens;
          const uint16_t* weights = reinterpret_cast<const uint16_t*>(scores) + b * kWeightBlock + 2 * c;
          _tile_loadd(7, weights, kWeightBytes);
          _tile_loadd(4, values, 2 * kBlockTokens);
          _tile_dpbf16ps(0, 4, 7);
          _tile_loadd(5, values + 16 * kBlockTokens, 2 * kBlockTokens);
          _tile_dpbf16ps(1, 5, 7);
          if (whole) {
            _tile_loadd(6, values + 32 * kBlockTokens, 2 * kBlockTokens);
            _tile_dpbf16ps(2, 6, 7);
            _tile_loadd(4, values + 48 * kBlockTokens, 2 * kBlockTokens);
            _tile_dpbf16ps(3, 4, 7);
          }
        }
        float* out = a.out + d * kColumns + c;
        _tile_stored(0, out, kScoreBytes);
        _tile_stored(1, out + 16 * kColumns, kScoreBytes);
        if (whole) {
          _tile_stored(2, out + 32 * kColumns, kScoreBytes);
          _tile_stored(3, out + 48 * kColumns, kScoreBytes);
        }
      }
      _mm512_storeu_ps(a.sum + c, _mm512_add_ps(sums[0], sums[1]));
    }
  }
};

}  // namespace

extern const AttentionKernel kAttention_amx{"amx-bf16", QueryLayout::kBf16Pairs, 32, span_bf16<TileProduct>,
                                            Tile<16>::merge, expand_bf16};

}  // namespace gpt_oss

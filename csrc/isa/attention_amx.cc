// Attention with AMX: tiles of 16 x 32 bfloat16 by 32 x 16 into 16 x 16 float32, four products in flight so that a
// tile that was loaded is used twice. The left operand is read from the cache as it lies.
#include "attention_bf16.h"

namespace gpt_oss {
namespace {

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr TileConfig kTileConfig;

constexpr int kColumnBytes = kColumns * sizeof(float);  // a row of scores, of pairs, of outputs

// Tiles 0 to 3 are sums: [left 0 | left 1] x [right 0 | right 1]; 4 and 5 left, 6 and 7 right.
template <int kRights>
void clear() {
  _tile_zero(0);
  _tile_zero(2);
  if constexpr (kRights == 2) {
    _tile_zero(1);
    _tile_zero(3);
  }
}

template <int kRights>
void multiply(const uint16_t* left, int left_bytes, const uint16_t* right) {
  _tile_loadd(4, left, left_bytes);
  _tile_loadd(6, right, kColumnBytes);
  _tile_dpbf16ps(0, 4, 6);
  _tile_loadd(5, left + 8 * left_bytes, left_bytes);  // 16 rows on: elements are 2 bytes
  _tile_dpbf16ps(2, 5, 6);
  if constexpr (kRights == 2) {
    _tile_loadd(7, right + 32, kColumnBytes);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
  }
}

template <int kRights>
void store(float* to) {
  _tile_stored(0, to, kColumnBytes);
  _tile_stored(2, to + 16 * kColumns, kColumnBytes);
  if constexpr (kRights == 2) {
    _tile_stored(1, to + 16, kColumnBytes);
    _tile_stored(3, to + 16 * kColumns + 16, kColumnBytes);
  }
}

struct TileProduct {
  static void begin() { _tile_loadconfig(&kTileConfig); }
  static void end() { _tile_release(); }

  template <int kRights>
  static void scores_of(const SpanArgs& a, int block, float* scores) {
    const auto* queries = static_cast<const uint16_t*>(a.queries);
    clear<kRights>();
    for (int d = 0; d < a.head_dim; d += 32) {
      multiply<kRights>(a.cache[block] + d, 2 * a.head_dim, queries + d / 2 * kPairRow);
    }
    store<kRights>(scores);
  }

  template <int kRights>
  static void outputs_of(const SpanArgs& a, const uint16_t* weights) {
    for (int d = 0; d < a.head_dim; d += 32) {
      clear<kRights>();
      for (int b = 0; b < a.blocks; ++b) {
        const uint16_t* values = a.cache[b] + (a.head_dim + d) * kBlockTokens;
        multiply<kRights>(values, 2 * kBlockTokens, weights + b * kBlockTokens / 2 * kPairRow);
      }
      store<kRights>(a.out + d * kColumns);
    }
  }

  static void scores(const SpanArgs& a, int block, float* scores) {
    a.columns > 16 ? scores_of<2>(a, block, scores) : scores_of<1>(a, block, scores);
  }
  static void outputs(const SpanArgs& a, const uint16_t* weights) {
    a.columns > 16 ? outputs_of<2>(a, weights) : outputs_of<1>(a, weights);
  }
};

}  // namespace

extern const AttentionKernel kAttention_amx{"amx-bf16", QueryLayout::kBf16Pairs, 32, span_bf16<TileProduct>,
                                            Tile<16>::merge};

}  // namespace gpt_oss

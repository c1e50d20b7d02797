// Many tokens on AMX: bf16 tiles, float32 sums. A panel of 32 rows of weights lies unpacked in the second-level cache
// while all tokens pass it; the next panel is unpacked in the gaps, for the tile unit works on its own.
//
// A tile of weights is 16 rows x 32 values in natural order: 32 MXFP4 values become 32 bf16 by one table look-up whose
// table, chosen by the block's scale, has the scale in it. The product is exact but for values under 2^-126.
// A tile of activations is [32 / 2 values][16 tokens][2 values]; a tile of results [16 rows][16 tokens].
//
// FLOPs: 2 * rows * cols * tokens. Bytes: the rows once, and for each panel the packed tokens from the L2 cache.
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "kernels.h"
#include "matmul_common.h"

namespace gpt_oss {
namespace {

constexpr int kPanel = 32;  // rows
constexpr int kTile = 16;   // tokens; they pass two tiles at a time

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Other kernels configure the tiles as well (attention): set, and given back, around each call.
struct TileScope {
  TileScope() {
    static constexpr TileConfig config;
    _tile_loadconfig(&config);
  }
  ~TileScope() { _tile_release(); }
};

size_t packed_bytes(int tokens, int cols) {
  return static_cast<size_t>((tokens + kTile - 1) / kTile) * kTile * cols * sizeof(uint16_t);
}

// Two panels: the one in use and the one in the making.
size_t scratch_bytes(int cols) { return 2 * static_cast<size_t>(kPanel) * cols * sizeof(uint16_t) + 64; }

// [16 tokens][cols] floats to [cols / 32][16 pairs][16 tokens][2].
void pack(const float* const* x, int tile, int cols, void* packed) {
  auto* out = static_cast<uint16_t*>(packed) + static_cast<size_t>(tile) * kTile * cols;
  alignas(64) uint32_t pairs[16][16];
  const __m512i column = _mm512_setr_epi32(0, 16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240);
  for (int k = 0; k < cols; k += 32) {
    for (int t = 0; t < kTile; ++t) {
      __m512i both = _mm512_setzero_si512();
      if (x[t] != nullptr) both = (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x[t] + k + 16), _mm512_loadu_ps(x[t] + k));
      _mm512_store_si512(pairs[t], both);
    }
    for (int p = 0; p < 16; ++p) {
      _mm512_storeu_si512(out + k * kTile + p * 32, _mm512_i32gather_epi32(column, pairs[0] + p, 4));
    }
  }
}

// Two rows of 16 tokens become one of pairs.
void pack_inner(const float* active, int rows, int first, int tokens, int cols, void* packed) {
  const __m512i interleave = [] {
    alignas(64) uint16_t index[32];
    for (int i = 0; i < 16; ++i) {
      index[2 * i] = static_cast<uint16_t>(i);
      index[2 * i + 1] = static_cast<uint16_t>(i + 16);
    }
    return _mm512_load_si512(index);
  }();
  for (int t = 0; t < tokens; t += 16) {
    uint16_t* tile = static_cast<uint16_t*>(packed) + static_cast<size_t>(t) * cols;
    for (int c = 0; c < rows / 2; c += 2) {
      const float* row = active + static_cast<size_t>(c) * tokens + t;
      const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(row + tokens), _mm512_loadu_ps(row));
      const int column = first + c;
      _mm512_storeu_si512(tile + column / 32 * 512 + column % 32 / 2 * 32, _mm512_permutexvar_epi16(interleave, both));
    }
  }
}

// For each scale, 2^(scale - 127) * e2m1 of every nibble as bf16, twice, so that bit 4 of an index does not matter.
using ScaledTable = std::array<std::array<uint16_t, 32>, 256>;

const ScaledTable& scaled_table() {
  alignas(64) static const ScaledTable table = [] {
    ScaledTable t{};
    constexpr float kValues[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    for (int scale = 0; scale < 256; ++scale) {
      for (int i = 0; i < 32; ++i) {
        const float value = std::ldexp(kValues[i & 7], scale - 127) * (i & 8 ? -1 : 1);
        t[scale][i] = scale == 255 ? 0x7fc0 : std::bit_cast<uint32_t>(value) >> 16;
      }
    }
    return t;
  }();
  return table;
}

// Unpacks 32 values of every row of a panel: [32 rows][32 values]. Rows that the matrix lacks become zeros.
struct Mxfp4Source {
  const uint8_t* blocks;
  const uint8_t* scales;
  size_t row_blocks;
  int scale_shift;  // what to add to a stored scale
  const ScaledTable* table;

  Mxfp4Source(const Rows& w, int row)
      : blocks(static_cast<const uint8_t*>(w.blocks) + static_cast<size_t>(row) * (w.cols / kBlock) * 16),
        scales(static_cast<const uint8_t*>(w.scales) + static_cast<size_t>(row) * (w.cols / kBlock)),
        row_blocks(w.cols / kBlock),
        scale_shift(127 - w.scale_bias),
        table(&scaled_table()) {}

  // Bytes of a panel that lie in one piece, and where.
  size_t panel_bytes() const { return kPanel * row_blocks * 16; }
  const void* panel_data() const { return blocks; }

  inline void unpack(int row, int k, uint16_t* out) const {
    const size_t at = row * row_blocks + k;
    const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(blocks + at * 16)));
    const __m512i index = _mm512_or_si512(bytes, _mm512_slli_epi32(bytes, 12));
    const int scale = scales[at] + scale_shift;
    const __m512i values = _mm512_load_si512((*table)[scale < 0 ? 0 : scale].data());
    _mm512_store_si512(out, _mm512_permutexvar_epi16(index, values));
  }
};

struct Bf16Source {
  const uint16_t* weight;
  size_t cols;

  Bf16Source(const Rows& w, int row)
      : weight(static_cast<const uint16_t*>(w.blocks) + static_cast<size_t>(row) * w.cols), cols(w.cols) {}

  size_t panel_bytes() const { return kPanel * cols * sizeof(uint16_t); }
  const void* panel_data() const { return weight; }

  inline void unpack(int row, int k, uint16_t* out) const {
    _mm512_store_si512(out, _mm512_loadu_si512(weight + row * cols + k * 32));
  }
};

template <class Source>
void unpack_panel(const Source& source, int rows, int k, uint16_t* out) {
  for (int r = 0; r < rows; ++r) source.unpack(r, k, out + r * 32);
  for (int r = rows; r < kPanel; ++r) _mm512_store_si512(out + r * 32, _mm512_setzero_si512());
}

// One panel times one or two tiles of tokens, `x2` being the second, while `beside(k)` unpacks something else.
template <bool kTwo, class F>
inline void multiply_tiles(const uint16_t* panel, const uint16_t* x, const uint16_t* x2, int steps, float* out,
                           size_t stride, F beside) {
  _tile_zero(0);
  _tile_zero(2);
  if constexpr (kTwo) {
    _tile_zero(1);
    _tile_zero(3);
  }
  for (int k = 0; k < steps; ++k) {
    _tile_loadd(4, panel + k * 1024, 64);
    _tile_loadd(6, x + k * 512, 64);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kTwo) {
      _tile_loadd(7, x2 + k * 512, 64);
      _tile_dpbf16ps(1, 4, 7);
    }
    _tile_loadd(5, panel + k * 1024 + 512, 64);
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (kTwo) _tile_dpbf16ps(3, 5, 7);
    beside(k);
  }
  const size_t bytes = stride * sizeof(float);
  _tile_stored(0, out, bytes);
  _tile_stored(2, out + 16 * stride, bytes);
  if constexpr (kTwo) {
    _tile_stored(1, out + 16, bytes);
    _tile_stored(3, out + 16 * stride + 16, bytes);
  }
}

template <class Source>
void multiply(const Rows& w, const void* packed, int tokens, float* out, void* scratch) {
  const size_t stride = tokens;
  const TileScope scope;
  const int steps = w.cols / 32, tiles = (tokens + kTile - 1) / kTile;
  const size_t panel_values = static_cast<size_t>(kPanel) * w.cols;
  auto* panels = reinterpret_cast<uint16_t*>((reinterpret_cast<uintptr_t>(scratch) + 63) / 64 * 64);
  const auto* x = static_cast<const uint16_t*>(packed);

  const Source first(w, 0);
  for (int k = 0; k < steps; ++k) unpack_panel(first, std::min(kPanel, w.rows), k, panels + k * 1024);
  for (int row = 0; row < w.rows; row += kPanel) {
    const uint16_t* panel = panels + (row / kPanel % 2) * panel_values;
    uint16_t* next = panels + ((row / kPanel + 1) % 2) * panel_values;
    const int next_rows = std::min(kPanel, w.rows - row - kPanel);
    const Source source(w, next_rows > 0 ? row + kPanel : row);
    for (int tile = 0; tile < tiles; tile += 2) {
      const int last = std::min(tiles, tile + 2);
      const uint16_t* columns = x + static_cast<size_t>(tile) * kTile * w.cols;
      const uint16_t* columns2 = columns + static_cast<size_t>(kTile) * w.cols;
      float* to = out + static_cast<size_t>(row) * stride + tile * kTile;
      // Beside each step of the product some rows of the next panel are unpacked, and some of the one after it are
      // fetched from memory: rows of a panel lie far apart, which no hardware prefetcher follows.
      const int begin = next_rows == kPanel ? kPanel * tile / tiles : 0;
      const int end = next_rows == kPanel ? kPanel * last / tiles : 0;
      const size_t share = row + 2 * kPanel < w.rows ? source.panel_bytes() / tiles : 0;
      const auto* fetch = static_cast<const char*>(source.panel_data()) + source.panel_bytes() + share * tile;
      const size_t step_bytes = share * (last - tile) / steps;
      const auto beside = [&](int k) {
        for (size_t at = k * step_bytes; at < (k + 1) * step_bytes; at += 64) _mm_prefetch(fetch + at, _MM_HINT_T1);
        for (int r = begin; r < end; ++r) source.unpack(r, k, next + k * 1024 + r * 32);
      };
      last - tile == 2 ? multiply_tiles<true>(panel, columns, columns2, steps, to, stride, beside)
                       : multiply_tiles<false>(panel, columns, columns, steps, to, stride, beside);
    }
    if (next_rows > 0 && next_rows < kPanel) {
      for (int k = 0; k < steps; ++k) unpack_panel(source, next_rows, k, next + k * 1024);
    }
  }
}

template <class Source>
constexpr ManyKernels kernels_of() {
  return {kPanel, kTile, packed_bytes, scratch_bytes, pack, multiply<Source>, ByRow::swiglu, pack_inner, ByRow::store};
}

}  // namespace

const ManyKernels& amx_mxfp4() {
  static constexpr ManyKernels kernels = kernels_of<Mxfp4Source>();
  return kernels;
}

const ManyKernels& amx_bf16() {
  static constexpr ManyKernels kernels = kernels_of<Bf16Source>();
  return kernels;
}

}  // namespace gpt_oss

// Many tokens on AVX-512 BF16, which knows no tiles: bf16 activations times bf16 or MXFP4 weights, float32 sums.
//
// 32 rows x 256 columns of weights are unpacked once, to pairs of bf16 [cols / 2][32 rows][2], and pass all tokens from
// the L1 cache, 12 tokens at a time: 24 sums, each 16 rows of a token, to which vdpbf16ps adds a pair of columns. MXFP4
// becomes bf16 by one look-up in a table that the block's scale chooses and is part of; the product is exact but for
// values under 2^-126, which become zero.
//
// FLOPs: 2 * rows * cols * tokens. Bytes: the rows once; per 32 rows all tokens' (2 a value) from the L2 cache.
#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels.h"
#include "matmul_many.h"
#include "matmul_scaled_table.h"

namespace gpt_oss {
namespace {

size_t packed_bytes(int tokens, int cols) { return static_cast<size_t>(tokens) * cols * sizeof(uint16_t); }

inline void pack_block(const float* x, uint16_t* out) {
  _mm512_storeu_si512(out, std::bit_cast<__m512i>(_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + 16), _mm512_loadu_ps(x))));
}

void pack(const float* const* x, int token, int cols, void* packed) {
  auto* out = static_cast<uint16_t*>(packed) + static_cast<size_t>(token) * cols;
  for (int i = 0; i < cols; i += kBlock) pack_block(x[0] + i, out + i);
}

void pack_inner(const float* active, int rows, int first, int tokens, int cols, void* packed) {
  for (int t = 0; t < tokens; ++t) {
    const float* row = active + t * Layout::stride(rows) / 2;
    uint16_t* out = static_cast<uint16_t*>(packed) + static_cast<size_t>(t) * cols + first;
    for (int i = 0; i < rows / 2; i += kBlock) pack_block(row + i, out + i);
  }
}

// A row's weights, 32 at a time, as bf16 in their order.
struct Mxfp4Source {
  static constexpr size_t kBlockBytes = 16;
  const uint8_t *blocks, *scales;
  size_t row_blocks;
  int scale_shift;  // what to add to a stored scale
  const ScaledTable& table;

  explicit Mxfp4Source(const Rows& w)
      : blocks(static_cast<const uint8_t*>(w.blocks)),
        scales(static_cast<const uint8_t*>(w.scales)),
        row_blocks(w.cols / kBlock),
        scale_shift(127 - w.scale_bias),
        table(scaled_table()) {}

  size_t row_bytes() const { return row_blocks * kBlockBytes; }

  __m512i load(size_t row, int block) const {
    const size_t at = row * row_blocks + block;
    const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(blocks + at * 16)));
    const __m512i index = _mm512_or_si512(bytes, _mm512_slli_epi32(bytes, 12));
    const int scale = std::max(scales[at] + scale_shift, 0);
    return _mm512_permutexvar_epi16(index, _mm512_load_si512(table[scale].data()));
  }
};

struct Bf16Source {
  static constexpr size_t kBlockBytes = 64;
  const uint16_t* blocks;
  size_t cols;

  explicit Bf16Source(const Rows& w) : blocks(static_cast<const uint16_t*>(w.blocks)), cols(w.cols) {}

  size_t row_bytes() const { return cols * sizeof(uint16_t); }
  __m512i load(size_t row, int block) const { return _mm512_loadu_si512(blocks + row * cols + block * kBlock); }
};

// 16 rows of 16 dwords to 16 columns.
inline void transpose(__m512i (&z)[16]) {
  __m512i y[16];
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    const __m512i low01 = _mm512_unpacklo_epi32(z[i], z[i + 1]), high01 = _mm512_unpackhi_epi32(z[i], z[i + 1]);
    const __m512i low23 = _mm512_unpacklo_epi32(z[i + 2], z[i + 3]), high23 = _mm512_unpackhi_epi32(z[i + 2], z[i + 3]);
    y[i] = _mm512_unpacklo_epi64(low01, low23);
    y[i + 1] = _mm512_unpackhi_epi64(low01, low23);
    y[i + 2] = _mm512_unpacklo_epi64(high01, high23);
    y[i + 3] = _mm512_unpackhi_epi64(high01, high23);
  }
  // y[i + j] has, in quarter q, column 4 q + j of rows i .. i + 3.
  const auto even = [](__m512i a, __m512i b) { return _mm512_shuffle_i32x4(a, b, 0x88); };
  const auto odd = [](__m512i a, __m512i b) { return _mm512_shuffle_i32x4(a, b, 0xdd); };
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512i even0 = even(y[j], y[4 + j]), even1 = even(y[8 + j], y[12 + j]);
    const __m512i odd0 = odd(y[j], y[4 + j]), odd1 = odd(y[8 + j], y[12 + j]);
    z[j] = even(even0, even1);
    z[4 + j] = even(odd0, odd1);
    z[8 + j] = odd(even0, even1);
    z[12 + j] = odd(odd0, odd1);
  }
}

// sum += w * x, pair by pair. In assembly, for gcc 12 copies the sums of the intrinsic from register to register.
inline void dpbf16(__m512& sum, __m512i w, __m512i x) {
#if defined(GPT_OSS_GNU)
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
#else
  sum = _mm512_dpbf16_ps(sum, std::bit_cast<__m512bh>(w), std::bit_cast<__m512bh>(x));
#endif
}

template <class Source>
struct ManyKernel {
  struct alignas(64) WeightBlock {
    uint32_t pairs[kBlock / 2][2][16];  // of 16 rows, twice
  };
  static constexpr int kRows = 32, kStep = 1, kTile = 12;
  static constexpr int kChunk = 8;  // 16 KB, a third of an L1 cache
  static constexpr size_t kBlockBytes = Source::kBlockBytes;

  Source source;
  const uint16_t* x;
  size_t cols;
  int last;

  ManyKernel(const Rows& w, const void* packed)
      : source(w), x(static_cast<const uint16_t*>(packed)), cols(w.cols), last(w.rows - 1) {}

  size_t row_bytes() const { return source.row_bytes(); }

  void unpack(int first, int block, int count, WeightBlock* out) const {
    for (int b = 0; b < count; ++b) {
      for (int half = 0; half < 2; ++half) {
        __m512i z[16];
#pragma GCC unroll 16
        for (int r = 0; r < 16; ++r) z[r] = source.load(std::min(first + half * 16 + r, last), block + b);
        transpose(z);
#pragma GCC unroll 16
        for (int p = 0; p < 16; ++p) _mm512_store_si512(out[b].pairs[p][half], z[p]);
      }
    }
  }

  template <int N>
  GPT_OSS_NOINLINE void multiply(const WeightBlock* w, int token, int block, int count, float* out, size_t stride,
                                  Fetch& fetch) const {
    const uint16_t* tokens = x + token * cols + block * kBlock;
    __m512 sum[2][N];
#pragma GCC unroll 16
    for (int t = 0; t < N; ++t) {
      sum[0][t] = block > 0 ? _mm512_loadu_ps(out + t * stride) : _mm512_setzero_ps();
      sum[1][t] = block > 0 ? _mm512_loadu_ps(out + t * stride + 16) : _mm512_setzero_ps();
    }
    for (int b = 0; b < count; ++b, ++w, tokens += kBlock) {
#pragma GCC unroll 4
      for (int p = 0; p < kBlock / 2; ++p) {
        const __m512i w0 = _mm512_load_si512(w->pairs[p][0]), w1 = _mm512_load_si512(w->pairs[p][1]);
#pragma GCC unroll 16
        for (int t = 0; t < N; ++t) {
          int32_t word;
          std::memcpy(&word, tokens + t * cols + 2 * p, sizeof word);
          const __m512i pair = _mm512_set1_epi32(word);
          dpbf16(sum[0][t], w0, pair);
          dpbf16(sum[1][t], w1, pair);
        }
      }
      // The next tokens: streams too short for the hardware to follow.
#pragma GCC unroll 16
      for (int t = 0; t < N; ++t) GPT_OSS_PREFETCH(tokens + (N + t) * cols);
      fetch();
    }
#pragma GCC unroll 16
    for (int t = 0; t < N; ++t) {
      _mm512_storeu_ps(out + t * stride, sum[0][t]);
      _mm512_storeu_ps(out + t * stride + 16, sum[1][t]);
    }
  }
};

template <class Source>
constexpr ManyKernels kernels_of() {
  using Kernel = ManyKernel<Source>;
  return {kPanel, Kernel::kStep, packed_bytes, chunk_bytes<Kernel>, pack, multiply_chunks<Kernel>, Layout::swiglu,
          pack_inner, Layout::store};
}

}  // namespace

const ManyKernels& avx512bf16_mxfp4() {
  static constexpr ManyKernels kernels = kernels_of<Mxfp4Source>();
  return kernels;
}

const ManyKernels& avx512bf16_bf16() {
  static constexpr ManyKernels kernels = kernels_of<Bf16Source>();
  return kernels;
}

}  // namespace gpt_oss

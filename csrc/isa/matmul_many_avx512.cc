// Many tokens on AVX-512 VNNI: int8 activations (a scale for every 32) times MXFP4 or int8 weights, int32 sums in a block.
//
// 32 rows x 512 columns of weights are unpacked once, to unsigned bytes [cols / 4][32 rows][4], and pass all tokens from the
// L1 cache, 6 tokens at a time: 12 sums, each 16 rows of a token. Meanwhile the next piece is fetched from memory. The
// weights' offset is taken back by where a block's sum starts. A block of 32 rows x 32 columns x 6 tokens is 96 vpdpbusd
// and 36 instructions on the same ports (convert, scale, add): 73% of the peak at best where all compete for two ports.
//
// FLOPs: 2 * rows * cols * tokens. Bytes: the rows once; per 32 rows all tokens' bytes (1.25 a value) from the L2 cache.
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "bf16.h"
#include "kernels.h"
#include "matmul_common.h"

namespace gpt_oss {
namespace {

constexpr int kPanel = 64;  // rows; half of it, what swiglu leaves, is a whole block of the next product
constexpr int kRows = 32;   // unpacked together: two registers
constexpr int kChunk = 16;  // blocks unpacked together: 16 KB, a third of an L1 cache
constexpr int kTokens = 6;

using Layout = ByToken<kPanel>;

// 32 values of a token; every 8 of them as 0 2 4 6 1 3 5 7, the order that nibbles come in.
struct TokenBlock {
  int8_t values[kBlock];
  float scale;
  int32_t start;  // -offset * (sum of values)
};

struct alignas(64) WeightBlock {
  uint8_t values[kBlock / 4][2][64];  // four columns, in TokenBlock's order, of 16 rows, twice
  float scales[kRows];
};

size_t packed_bytes(int tokens, int cols) { return static_cast<size_t>(tokens) * (cols / kBlock) * sizeof(TokenBlock); }

size_t scratch_bytes(int) { return kChunk * sizeof(WeightBlock) + 64; }

inline void quantise(const float* x, int offset, TokenBlock& out) {
  const __m512 first = _mm512_loadu_ps(x), second = _mm512_loadu_ps(x + 16), sign = _mm512_set1_ps(-0.0f);
  const float greatest =
      _mm512_reduce_max_ps(_mm512_max_ps(_mm512_andnot_ps(sign, first), _mm512_andnot_ps(sign, second)));
  const __m512 inverse = _mm512_set1_ps(greatest > 0 ? 127 / greatest : 0);
  const __m512i low = _mm512_cvtps_epi32(_mm512_mul_ps(first, inverse));
  const __m512i high = _mm512_cvtps_epi32(_mm512_mul_ps(second, inverse));
  const __m256i bytes = _mm256_set_m128i(_mm512_cvtepi32_epi8(high), _mm512_cvtepi32_epi8(low));
  const __m256i order =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out.values), _mm256_shuffle_epi8(bytes, order));
  out.scale = greatest / 127;
  out.start = -offset * _mm512_reduce_add_epi32(_mm512_add_epi32(low, high));
}

TokenBlock* token_blocks(void* packed, int token, int cols) {
  return static_cast<TokenBlock*>(packed) + static_cast<size_t>(token) * (cols / kBlock);
}

template <int kOffset>
void pack(const float* const* x, int token, int cols, void* packed) {
  for (int b = 0; b < cols / kBlock; ++b) quantise(x[0] + b * kBlock, kOffset, token_blocks(packed, token, cols)[b]);
}

template <int kOffset>
void pack_inner(const float* active, int rows, int first, int tokens, int cols, void* packed) {
  for (int t = 0; t < tokens; ++t) {
    TokenBlock* out = token_blocks(packed, t, cols) + first / kBlock;
    for (int b = 0; b < rows / 2 / kBlock; ++b) {
      quantise(active + t * Layout::stride(rows) / 2 + b * kBlock, kOffset, out[b]);
    }
  }
}

inline __m128i load16(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }

// The same 16 bytes of 16 rows, as four registers that each hold four bytes of every row.
template <class Row>
inline void load_transposed(Row row, __m512i (&out)[4]) {
  __m512i z[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    z[i] = _mm512_castsi128_si512(load16(row(i)));
    z[i] = _mm512_inserti32x4(z[i], load16(row(i + 4)), 1);
    z[i] = _mm512_inserti32x4(z[i], load16(row(i + 8)), 2);
    z[i] = _mm512_inserti32x4(z[i], load16(row(i + 12)), 3);
  }
  const __m512i low01 = _mm512_unpacklo_epi32(z[0], z[1]), high01 = _mm512_unpackhi_epi32(z[0], z[1]);
  const __m512i low23 = _mm512_unpacklo_epi32(z[2], z[3]), high23 = _mm512_unpackhi_epi32(z[2], z[3]);
  out[0] = _mm512_unpacklo_epi64(low01, low23);
  out[1] = _mm512_unpackhi_epi64(low01, low23);
  out[2] = _mm512_unpacklo_epi64(high01, high23);
  out[3] = _mm512_unpackhi_epi64(high01, high23);
}

// A chunk of a weight matrix: rows [first, first + 32), those past the end being the last one again, which does no harm.
struct Mxfp4Source {
  static constexpr int kOffset = kMxfp4Offset;

  static size_t row_bytes(const Rows& w) { return w.cols / kBlock * 16; }
  static constexpr size_t kBlockBytes = 16;

  static void values(const uint8_t* const (&row)[16], int block, int half, WeightBlock& out) {
    const __m512i table =
        _mm512_broadcast_i32x4(_mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    const __m512i mask = _mm512_set1_epi8(15);
    __m512i bytes[4];
    load_transposed([&](int r) { return row[r] + block * 16; }, bytes);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      _mm512_store_si512(out.values[2 * i][half], _mm512_shuffle_epi8(table, _mm512_and_si512(bytes[i], mask)));
      _mm512_store_si512(out.values[2 * i + 1][half],
                         _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(bytes[i], 4), mask)));
    }
  }

  // Of four blocks, fewer at a row's end. With the half that undoes the doubling; below 2^-126 they become zero.
  static void scales(const Rows& w, const int (&row)[16], int block, int count, int half, WeightBlock* out) {
    alignas(64) uint32_t words[16] = {};
    for (int r = 0; r < 16; ++r) {
      const uint8_t* at = static_cast<const uint8_t*>(w.scales) + static_cast<size_t>(row[r]) * (w.cols / kBlock) + block;
      std::memcpy(&words[r], at, count == 4 ? 4 : count);
    }
    const __m512i bytes = _mm512_load_si512(words), bias = _mm512_set1_epi32(w.scale_bias - 126);
    for (int b = 0; b < count; ++b) {
      const __m512i byte = _mm512_and_si512(_mm512_srlv_epi32(bytes, _mm512_set1_epi32(8 * b)), _mm512_set1_epi32(255));
      const __m512i exponent = _mm512_max_epi32(_mm512_sub_epi32(byte, bias), _mm512_setzero_si512());
      _mm512_store_si512(out[b].scales + half * 16, _mm512_slli_epi32(exponent, 23));
    }
  }
};

struct Int8Source {
  static constexpr int kOffset = kInt8Offset;

  static size_t row_bytes(const Rows& w) { return static_cast<size_t>(groups(w.cols)) * 128; }
  static constexpr size_t kBlockBytes = 32;

  static void values(const uint8_t* const (&row)[16], int block, int half, WeightBlock& out) {
    for (int odd = 0; odd < 2; ++odd) {
      __m512i bytes[4];
      load_transposed([&](int r) { return row[r] + block / 4 * 128 + odd * 64 + block % 4 * 16; }, bytes);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) _mm512_store_si512(out.values[2 * i + odd][half], bytes[i]);
    }
  }

  static void scales(const Rows& w, const int (&row)[16], int block, int count, int half, WeightBlock* out) {
    alignas(64) uint64_t words[16];
    for (int r = 0; r < 16; ++r) {
      std::memcpy(&words[r], static_cast<const uint16_t*>(w.scales) + static_cast<size_t>(row[r]) * groups(w.cols) * 4 + block, 8);
    }
    const __m512i low = _mm512_load_si512(words), high = _mm512_load_si512(words + 8);
    for (int b = 0; b < count; ++b) {
      const __m512i shift = _mm512_set1_epi64(16 * b);
      const __m512i both = _mm512_inserti64x4(
          _mm512_castsi256_si512(_mm512_cvtepi64_epi32(_mm512_srlv_epi64(low, shift))),
          _mm512_cvtepi64_epi32(_mm512_srlv_epi64(high, shift)), 1);
      _mm512_store_si512(out[b].scales + half * 16, _mm512_slli_epi32(both, 16));
    }
  }
};

// Fetches the bytes of a chunk from memory, spread over `calls`: the rows lie far apart, which no hardware follows.
class Fetch {
 public:
  Fetch(const uint8_t* first, size_t row_bytes, int rows, size_t bytes, int calls)
      : at_(first),
        row_bytes_(row_bytes),
        lines_(static_cast<int>((bytes + 63) / 64)),
        rows_(std::max(rows, 0)),
        each_((lines_ * rows_ + calls - 1) / calls) {}

  void operator()() {
    for (int i = 0; i < each_ && rows_ > 0; ++i) {
      _mm_prefetch(reinterpret_cast<const char*>(at_) + line_ * 64, _MM_HINT_T1);
      if (++line_ == lines_) line_ = 0, --rows_, at_ += row_bytes_;
    }
  }

 private:
  const uint8_t* at_;
  size_t row_bytes_;
  int lines_, rows_, each_, line_ = 0;
};

template <class Source>
void unpack(const Rows& w, int first, int first_block, int blocks, WeightBlock* out) {
  const size_t row_bytes = Source::row_bytes(w);
  for (int half = 0; half < 2; ++half) {
    const uint8_t* row[16];
    int number[16];
    for (int r = 0; r < 16; ++r) {
      number[r] = std::min(first + half * 16 + r, w.rows - 1);
      row[r] = static_cast<const uint8_t*>(w.blocks) + number[r] * row_bytes;
    }
    for (int b = 0; b < blocks; b += 4) {
      const int count = std::min(4, blocks - b);
      for (int i = 0; i < count; ++i) Source::values(row, first_block + b + i, half, out[b + i]);
      Source::scales(w, number, first_block + b, count, half, out + b);
    }
  }
}

// sum += w * x, four by four. In assembly, for gcc 12 copies the sums of the intrinsic from register to register.
inline void dpbusd(__m512i& sum, __m512i w, __m512i x) {
#if defined(GPT_OSS_GNU)
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
#else
  sum = _mm512_dpbusd_epi32(sum, w, x);
#endif
}

// 32 rows times N tokens, one chunk; `add` to what the chunks before left in `out`.
template <int N>
void multiply_tile(const WeightBlock* w, const TokenBlock* x, size_t x_stride, int blocks, bool add, float* out,
                   size_t stride, Fetch& fetch) {
  __m512 sum[2][N];
#pragma GCC unroll 8
  for (int t = 0; t < N; ++t) {
    sum[0][t] = add ? _mm512_loadu_ps(out + t * stride) : _mm512_setzero_ps();
    sum[1][t] = add ? _mm512_loadu_ps(out + t * stride + 16) : _mm512_setzero_ps();
  }
  for (int b = 0; b < blocks; ++b, ++w, ++x) {
    __m512i dot[2][N];
#pragma GCC unroll 8
    for (int t = 0; t < N; ++t) dot[0][t] = dot[1][t] = _mm512_set1_epi32(x[t * x_stride].start);
#pragma GCC unroll 8
    for (int k = 0; k < kBlock / 4; ++k) {
      const __m512i w0 = _mm512_load_si512(w->values[k][0]), w1 = _mm512_load_si512(w->values[k][1]);
#pragma GCC unroll 8
      for (int t = 0; t < N; ++t) {
        const __m512i four = _mm512_set1_epi32(reinterpret_cast<const int32_t*>(x[t * x_stride].values)[k]);
        dpbusd(dot[0][t], w0, four);
        dpbusd(dot[1][t], w1, four);
      }
    }
    // The next tokens: streams too short for the hardware to follow.
#pragma GCC unroll 8
    for (int t = 0; t < N; ++t) _mm_prefetch(reinterpret_cast<const char*>(x + (N + t) * x_stride), _MM_HINT_T0);
    fetch();
    const __m512 scale0 = _mm512_load_ps(w->scales), scale1 = _mm512_load_ps(w->scales + 16);
#pragma GCC unroll 8
    for (int t = 0; t < N; ++t) {
      const __m512 scale = _mm512_set1_ps(x[t * x_stride].scale);
      sum[0][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[0][t]), _mm512_mul_ps(scale0, scale), sum[0][t]);
      sum[1][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[1][t]), _mm512_mul_ps(scale1, scale), sum[1][t]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < N; ++t) {
    _mm512_storeu_ps(out + t * stride, sum[0][t]);
    _mm512_storeu_ps(out + t * stride + 16, sum[1][t]);
  }
}

using Tile = decltype(&multiply_tile<1>);
constexpr Tile kTiles[kTokens + 1] = {nullptr,          multiply_tile<1>, multiply_tile<2>, multiply_tile<3>,
                                      multiply_tile<4>, multiply_tile<5>, multiply_tile<6>};

template <class Source>
void multiply(const Rows& w, const void* packed, int tokens, float* out, void* scratch) {
  const int blocks = w.cols / kBlock;
  const size_t stride = Layout::stride(w.rows), row_bytes = Source::row_bytes(w);
  auto* chunk = reinterpret_cast<WeightBlock*>((reinterpret_cast<uintptr_t>(scratch) + 63) / 64 * 64);
  const auto* x = static_cast<const TokenBlock*>(packed);
  for (int row = 0; row < w.rows; row += kRows) {
    for (int b = 0; b < blocks; b += kChunk) {
      const int count = std::min(kChunk, blocks - b);
      unpack<Source>(w, row, b, count, chunk);

      const bool last = b + kChunk >= blocks;
      const int next_row = last ? row + kRows : row, next_block = last ? 0 : b + kChunk;
      Fetch fetch(static_cast<const uint8_t*>(w.blocks) + next_row * row_bytes + next_block * Source::kBlockBytes,
                  row_bytes, std::min(kRows, w.rows - next_row),
                  std::min(kChunk, blocks - next_block) * Source::kBlockBytes,
                  count * ((tokens + kTokens - 1) / kTokens));
      for (int t = 0; t < tokens; t += kTokens) {
        kTiles[std::min(kTokens, tokens - t)](chunk, x + static_cast<size_t>(t) * blocks + b, blocks, count, b > 0,
                                              out + t * stride + row, stride, fetch);
      }
    }
  }
}

template <class Source>
constexpr ManyKernels kernels_of() {
  return {kPanel, 1, packed_bytes, scratch_bytes, pack<Source::kOffset>, multiply<Source>, Layout::swiglu,
          pack_inner<Source::kOffset>, Layout::store};
}

}  // namespace

const ManyKernels& avx512_mxfp4_int8() {
  static constexpr ManyKernels kernels = kernels_of<Mxfp4Source>();
  return kernels;
}

const ManyKernels& avx512_int8() {
  static constexpr ManyKernels kernels = kernels_of<Int8Source>();
  return kernels;
}

}  // namespace gpt_oss

// The matrix kernels for a few tokens on AVX-512 with VNNI.
//
// Rows go two (int8) or four (float) at a time, each from its own part of the matrix: the hardware fetches ahead of a
// stream only within a page, so that some streams come faster than one, and they share what is loaded of the tokens.
//
// int8 activations: 16 blocks, a span, are taken together. Their weights are transposed so that a lane has all of one
// block, and a block costs a token 1/16 of one conversion, one product of scales and one addition. 128 MXFP4 weights
// are 8 instructions and 3 a token, half of what memory needs to deliver them.
//
// Bytes: the rows' own (MXFP4 0.53 a weight, int8 1.06, bf16 2), once for all tokens. FLOPs: 2 a weight and token.
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "bf16.h"
#include "kernels.h"
#include "matmul_common.h"

namespace gpt_oss {
namespace {

constexpr int kColumns = 4;  // tokens at a time: the rows' sums for them stay in registers
constexpr int kSpan = 16;    // blocks
constexpr int kAhead = 2048;  // bytes of a row's stream, fetched before they are needed
constexpr int kScalesAhead = 768;

// 512 activations. Lane 4b + g belongs to block 4g + b: a register holds four blocks of weights, and four registers are
// transposed within their quarters, b. values[half][j]: four values of each block, from place 8j + half on by twos.
struct alignas(64) Span {
  int8_t values[2][4][64];
  int32_t start[16];  // -offset * (sum of the block), which takes the weights' offset back
  float scale[16];
};

constexpr int lane_of(int block) { return block % 4 * 4 + block / 4; }

constexpr int spans(int cols) { return (cols / kBlock + kSpan - 1) / kSpan; }

size_t int8_bytes(int cols) { return spans(cols) * sizeof(Span); }

void pack_int8(const float* x, int cols, int offset, void* packed) {
  auto* out = static_cast<Span*>(packed);
  std::memset(out + spans(cols) - 1, 0, sizeof(Span));
  const __m512 sign = _mm512_set1_ps(-0.0f);
  const __m512i evens = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odds = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  for (int b = 0; b < cols / kBlock; ++b) {
    Span& span = out[b / kSpan];
    const int lane = lane_of(b % kSpan);
    const __m512 first = _mm512_loadu_ps(x + b * kBlock), second = _mm512_loadu_ps(x + b * kBlock + 16);
    const float greatest =
        _mm512_reduce_max_ps(_mm512_max_ps(_mm512_andnot_ps(sign, first), _mm512_andnot_ps(sign, second)));
    const __m512 inverse = _mm512_set1_ps(greatest > 0 ? 127 / greatest : 0);
    const __m512i low = _mm512_cvtps_epi32(_mm512_mul_ps(first, inverse));
    const __m512i high = _mm512_cvtps_epi32(_mm512_mul_ps(second, inverse));
    alignas(16) int8_t halves[2][16];
    _mm_store_si128(reinterpret_cast<__m128i*>(halves[0]),
                    _mm512_cvtepi32_epi8(_mm512_permutex2var_epi32(low, evens, high)));
    _mm_store_si128(reinterpret_cast<__m128i*>(halves[1]),
                    _mm512_cvtepi32_epi8(_mm512_permutex2var_epi32(low, odds, high)));
    for (int i = 0; i < 8; ++i) std::memcpy(span.values[i / 4][i % 4] + 4 * lane, halves[i / 4] + i % 4 * 4, 4);
    span.start[lane] = -offset * _mm512_reduce_add_epi32(_mm512_add_epi32(low, high));
    span.scale[lane] = greatest / 127;
  }
}

void unpack_int8(const void* packed, int cols, double* out) {
  const auto* x = static_cast<const Span*>(packed);
  for (int i = 0; i < cols; ++i) {
    const Span& span = x[i / kBlock / kSpan];
    const int lane = lane_of(i / kBlock % kSpan), place = i % kBlock;
    out[i] = static_cast<double>(span.scale[lane]) * span.values[place % 2][place / 8][4 * lane + place % 8 / 2];
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

inline void fetch_line(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

// Not _mm512_reduce_add_ps, whose registers gcc 12 believes to be uninitialised.
inline float reduce_add(__m512 x) {
  const __m256 low = _mm512_maskz_extractf32x8_ps(0xff, x, 0), high = _mm512_maskz_extractf32x8_ps(0xff, x, 1);
  const __m256 eight = _mm256_add_ps(low, high);
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

// `bytes` of 64, the others zero.
inline __m512i load(const uint8_t* p, int bytes) {
  return bytes >= 64 ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi8(bytes <= 0 ? 0 : (1ull << bytes) - 1, p);
}

// Lane 4b + g of w[j] becomes lane 4b + j of w[g].
inline void transpose(__m512i (&w)[4]) {
  const __m512i a = _mm512_unpacklo_epi32(w[0], w[1]), b = _mm512_unpackhi_epi32(w[0], w[1]);
  const __m512i c = _mm512_unpacklo_epi32(w[2], w[3]), d = _mm512_unpackhi_epi32(w[2], w[3]);
  w[0] = _mm512_unpacklo_epi64(a, c);
  w[1] = _mm512_unpackhi_epi64(a, c);
  w[2] = _mm512_unpacklo_epi64(b, d);
  w[3] = _mm512_unpackhi_epi64(b, d);
}

// 16 bytes to floats 2^(byte - bias); below 2^-126 they become zero.
inline __m512 powers(__m128i bytes, __m512i bias_less_127) {
  const __m512i exponent = _mm512_sub_epi32(_mm512_cvtepu8_epi32(bytes), bias_less_127);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_max_epi32(exponent, _mm512_setzero_si512()), 23));
}

// What follows reads rows of weights, span by span. `left` is the number of blocks from the span's first on.

class Mxfp4Row {
 public:
  Mxfp4Row(const Rows& w, int row)
      : nibbles_(static_cast<const uint8_t*>(w.blocks) + static_cast<size_t>(row) * (w.cols / kBlock) * 16),
        scales_(static_cast<const uint8_t*>(w.scales) + static_cast<size_t>(row) * (w.cols / kBlock)),
        bias_(_mm512_set1_epi32(w.scale_bias - 127 + 1)) {}  // and the half that undoes the doubling

  // The even values of the blocks, or, from what that left, the odd ones, as unsigned bytes once `bytes` has seen them.
  inline void read(int span, int half, int left, __m512i (&w)[4]) const {
    if (half == 1) {
#pragma GCC unroll 4
      for (int g = 0; g < 4; ++g) w[g] = _mm512_srli_epi16(w[g], 4);
      return;
    }
    const uint8_t* from = nibbles_ + span * 256;
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) {
      fetch_line(from + g * 64 + kAhead);
      w[g] = load(from + g * 64, left * 16 - g * 64);
    }
    transpose(w);
  }

  // 2 * e2m1 + 12 by the low four bits: the table repeats itself for the other two that the look-up takes.
  static inline __m512i bytes(__m512i nibbles) {
    const __m128i table = _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0);
    return _mm512_permutexvar_epi8(nibbles, _mm512_broadcast_i32x4(table));
  }

  inline __m512 scales(int span, int left) const {
    const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    fetch_line(scales_ + span * kSpan + kScalesAhead);
    const auto mask = static_cast<__mmask16>(left >= kSpan ? 0xffff : (1u << left) - 1);
    return powers(_mm_shuffle_epi8(_mm_maskz_loadu_epi8(mask, scales_ + span * kSpan), order), bias_);
  }

 private:
  const uint8_t *nibbles_, *scales_;
  __m512i bias_;
};

class Int8Row {
 public:
  Int8Row(const Rows& w, int row)
      : values_(static_cast<const uint8_t*>(w.blocks) + Int8Weight::value_bytes(row, w.cols)),
        scales_(static_cast<const uint16_t*>(w.scales) + Int8Weight::scale_count(row, w.cols)) {}

  inline void read(int span, int half, int left, __m512i (&w)[4]) const {
    const uint8_t* from = values_ + span * 512 + half * 64;
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) {
      fetch_line(from + g * 128 + kAhead);
      w[g] = load(from + g * 128, left > 4 * g ? 64 : 0);
    }
    transpose(w);
  }

  static inline __m512i bytes(__m512i values) { return values; }

  inline __m512 scales(int span, int left) const {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    fetch_line(scales_ + span * kSpan + kScalesAhead);
    const auto mask = static_cast<__mmask16>(left >= kSpan ? 0xffff : (1u << (left + 3) / 4 * 4) - 1);
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, scales_ + span * kSpan));
    return _mm512_castsi512_ps(_mm512_permutexvar_epi32(order, _mm512_slli_epi32(wide, 16)));
  }

 private:
  const uint8_t* values_;
  const uint16_t* scales_;
};

// sum += one span of kRows rows times kTokens tokens.
template <class Row, int kRows, int kTokens>
inline void add_span(const Row (&row)[2], int span, int left, const Span* const (&x)[kTokens],
                     __m512 (&sum)[kRows][kTokens]) {
  __m512i w[kRows][4], dot[kRows][kTokens];
#pragma GCC unroll 4
  for (int c = 0; c < kTokens; ++c) {
#pragma GCC unroll 2
    for (int r = 0; r < kRows; ++r) dot[r][c] = _mm512_load_si512(x[c][span].start);
  }
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
#pragma GCC unroll 2
    for (int r = 0; r < kRows; ++r) row[r].read(span, half, left, w[r]);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
#pragma GCC unroll 2
      for (int r = 0; r < kRows; ++r) {
        const __m512i bytes = Row::bytes(w[r][j]);
#pragma GCC unroll 4
        for (int c = 0; c < kTokens; ++c) {
          dot[r][c] = _mm512_dpbusd_epi32(dot[r][c], bytes, _mm512_load_si512(x[c][span].values[half][j]));
        }
      }
    }
  }
#pragma GCC unroll 2
  for (int r = 0; r < kRows; ++r) {
    const __m512 scale = row[r].scales(span, left);
#pragma GCC unroll 4
    for (int c = 0; c < kTokens; ++c) {
      const __m512 both = _mm512_mul_ps(scale, _mm512_load_ps(x[c][span].scale));
      sum[r][c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[r][c]), both, sum[r][c]);
    }
  }
}

template <int kRows, int kTokens>
inline void clear(__m512 (&sum)[kRows][kTokens]) {
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < kTokens; ++c) sum[r][c] = _mm512_setzero_ps();
  }
}

template <int kRows, int kTokens>
inline void store(const __m512 (&sum)[kRows][kTokens], int first, int apart, float* out, size_t stride) {
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < kTokens; ++c) out[c * stride + first + r * apart] = reduce_add(sum[r][c]);
  }
}

// Row `first` and, if there are two, first + apart, times int8 columns.
template <class Row>
struct Int8 {
  using Column = Span;
  static constexpr int kTogether = 2;

  template <int kRows, int kTokens>
  static void multiply(const Rows& w, int first, int apart, const Span* const (&x)[kTokens], float* out,
                       size_t stride) {
    const Row row[2] = {Row(w, first), Row(w, first + apart)};
    const int blocks = w.cols / kBlock, whole = blocks / kSpan;
    __m512 sum[kRows][kTokens];
    clear(sum);
    for (int i = 0; i < whole; ++i) add_span<Row, kRows, kTokens>(row, i, kSpan, x, sum);
    if (blocks % kSpan != 0) add_span<Row, kRows, kTokens>(row, whole, blocks % kSpan, x, sum);
    store(sum, first, apart, out, stride);
  }
};

// sum += kRows vectors of weights times kTokens vectors of activations.
template <int kRows, int kTokens>
inline void add_products(const __m512 (&w)[kRows], const float* const (&x)[kTokens], int at,
                         __m512 (&sum)[kRows][kTokens]) {
#pragma GCC unroll 4
  for (int c = 0; c < kTokens; ++c) {
    const __m512 column = _mm512_loadu_ps(x[c] + at);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) sum[r][c] = _mm512_fmadd_ps(w[r], column, sum[r][c]);
  }
}

// kRows rows from `first` on, `apart` from one another, times what pack_exact made.
struct ExactMxfp4 {
  using Column = float;
  static constexpr int kTogether = 4;

  template <int kRows, int kTokens>
  static void multiply(const Rows& w, int first, int apart, const float* const (&x)[kTokens], float* out,
                       size_t stride) {
    const __m512 table = _mm512_setr_ps(0, .5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -.5f, -1, -1.5f, -2, -3, -4, -6);
    const __m512i bias = _mm512_set1_epi32(w.scale_bias - 127);
    const int blocks = w.cols / kBlock;
    const uint8_t *nibbles[kRows], *scales[kRows];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const size_t at = static_cast<size_t>(first + r * apart) * blocks;
      nibbles[r] = static_cast<const uint8_t*>(w.blocks) + at * 16;
      scales[r] = static_cast<const uint8_t*>(w.scales) + at;
    }
    __m512 sum[kRows][kTokens];
    clear(sum);
    for (int span = 0; span < blocks; span += kSpan) {
      const int count = std::min(kSpan, blocks - span);
      alignas(64) float power[kRows][kSpan];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        fetch_line(scales[r] + span + kScalesAhead);
        const __m128i bytes = _mm_maskz_loadu_epi8(static_cast<__mmask16>((1u << count) - 1), scales[r] + span);
        _mm512_store_ps(power[r], powers(bytes, bias));
      }
      const auto add = [&](int b) {
        __m512 even[kRows], odd[kRows];
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
          const auto* from = reinterpret_cast<const __m128i*>(nibbles[r]) + span + b;
          const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(from));
          const __m512 values = _mm512_mul_ps(table, _mm512_set1_ps(power[r][b]));
          even[r] = _mm512_permutexvar_ps(bytes, values);
          odd[r] = _mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 4), values);
        }
        add_products(even, x, (span + b) * kBlock, sum);
        add_products(odd, x, (span + b) * kBlock + 16, sum);
      };
      int b = 0;
      for (; b + 4 <= count; b += 4) {
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) fetch_line(nibbles[r] + (span + b) * 16 + kAhead);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) add(b + i);
      }
      for (; b < count; ++b) add(b);
    }
    store(sum, first, apart, out, stride);
  }
};

struct ExactBf16 {
  using Column = float;
  static constexpr int kTogether = 4;

  template <int kRows, int kTokens>
  static void multiply(const Rows& w, int first, int apart, const float* const (&x)[kTokens], float* out,
                       size_t stride) {
    const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    const uint16_t* row[kRows];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      row[r] = static_cast<const uint16_t*>(w.blocks) + static_cast<size_t>(first + r * apart) * w.cols;
    }
    __m512 sum[kRows][kTokens];
    clear(sum);
    for (int b = 0; b < w.cols / kBlock; ++b) {
      __m512 even[kRows], odd[kRows];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const uint16_t* from = row[r] + b * kBlock;
        fetch_line(reinterpret_cast<const uint8_t*>(from) + kAhead);
        const __m512i pairs = _mm512_loadu_si512(from);
        even[r] = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
        odd[r] = _mm512_castsi512_ps(_mm512_and_si512(pairs, high));
      }
      add_products(even, x, b * kBlock, sum);
      add_products(odd, x, b * kBlock + 16, sum);
    }
    store(sum, first, apart, out, stride);
  }
};

// kRows rows from `row` on, `apart` from one another, times kTokens columns.
template <class Product, int kRows, int kTokens>
inline void multiply(const Rows& w, int row, int apart, const void* const* columns, float* out, size_t stride) {
  const typename Product::Column* x[kTokens];
  for (int c = 0; c < kTokens; ++c) x[c] = static_cast<const typename Product::Column*>(columns[c]);
  Product::template multiply<kRows, kTokens>(w, row, apart, x, out, stride);
}

// The same for all columns: the rows are in the cache for all of them but the first four.
template <class Product, int kRows>
inline void multiply_all(const Rows& w, int row, int apart, const void* const* columns, int count, float* out,
                         size_t stride) {
  for (int c = 0; c < count; c += kColumns) {
    float* to = out + c * stride;
    switch (std::min(kColumns, count - c)) {
      case 1: multiply<Product, kRows, 1>(w, row, apart, columns + c, to, stride); break;
      case 2: multiply<Product, kRows, 2>(w, row, apart, columns + c, to, stride); break;
      case 3: multiply<Product, kRows, 3>(w, row, apart, columns + c, to, stride); break;
      default: multiply<Product, kRows, kColumns>(w, row, apart, columns + c, to, stride); break;
    }
  }
}

// All rows: several at a time, each from its own part of the matrix, and what is left one by one.
template <class Product>
void few(const Rows& w, const void* const* columns, int count, float* out, size_t stride) {
  constexpr int kRows = Product::kTogether;
  const int apart = w.rows / kRows;
  for (int r = 0; r < apart; ++r) multiply_all<Product, kRows>(w, r, apart, columns, count, out, stride);
  for (int r = kRows * apart; r < w.rows; ++r) multiply_all<Product, 1>(w, r, 0, columns, count, out, stride);
}

}  // namespace

const Kernels& avx512_kernels() {
  static constexpr Kernels kernels = {
      Isa::avx512, int8_bytes,         pack_int8,      unpack_int8, pack_exact, few<Int8<Mxfp4Row>>, few<ExactMxfp4>,
      few<Int8<Int8Row>>, few<ExactBf16>, swiglu_row,  nullptr,     nullptr,    nullptr,             nullptr};
  return kernels;
}

}  // namespace gpt_oss

// The matrix kernels for AVX2, which has no dot product of bytes: vpmaddubsw, whose sums of two products saturate at 16
// bits, and vpmaddwd stand for it. Nothing saturates here: the greatest sums stand beside the products.
#include "matmul_many_256.h"

namespace gpt_oss {
namespace {

// Sums of two products of bytes, u * x, in 16 bits.
inline __m256i pairs(__m256i u, __m256i x) { return _mm256_maddubs_epi16(u, x); }

inline __m256i widen(__m256i sums) { return _mm256_madd_epi16(sums, _mm256_set1_epi16(1)); }

// sum += x. In assembly, for gcc regroups such sums, and runs out of registers.
#if defined(GPT_OSS_GNU)
inline void add16(__m256i& sum, __m256i x) { asm("vpaddw %1, %0, %0" : "+x"(sum) : "x"(x)); }
inline void add32(__m256i& sum, __m256i x) { asm("vpaddd %1, %0, %0" : "+x"(sum) : "x"(x)); }
#else
inline void add16(__m256i& sum, __m256i x) { sum = _mm256_add_epi16(sum, x); }
inline void add32(__m256i& sum, __m256i x) { sum = _mm256_add_epi32(sum, x); }
#endif

// MXFP4: weights of 0 .. 24 leave room to add four pairs, at most 4 * 2 * 24 * 127 = 24384.
struct SmallBytes {
  static constexpr int kRegisters = 2, kTokens = 3, kOffset = kMxfp4Offset;

  static __m256i multiply(const __m256i (&w)[8], const Span& x) {
    __m256i sum = load32(x.start);
#pragma GCC unroll 2
    for (int half = 0; half < 8; half += 4) {
      __m256i part = pairs(w[half], load32(x.values[half]));
#pragma GCC unroll 3
      for (int i = 1; i < 4; ++i) add16(part, pairs(w[half + i], load32(x.values[half + i])));
      add32(sum, widen(part));
    }
    return sum;
  }

  template <int N>
  static void multiply(const WeightBlock<kRegisters>& w, const TokenBlock* x, size_t stride,
                       __m256i (&dot)[kRegisters][N]) {
#pragma GCC unroll 8
    for (int t = 0; t < N; ++t) dot[0][t] = dot[1][t] = _mm256_set1_epi32(x[t * stride].start);
#pragma GCC unroll 2
    for (int half = 0; half < kSteps; half += 4) {
      __m256i part[kRegisters][N];
#pragma GCC unroll 8
      for (int t = 0; t < N; ++t) part[0][t] = part[1][t] = _mm256_setzero_si256();
#pragma GCC unroll 4
      for (int k = half; k < half + 4; ++k) {
        const __m256i w0 = weights(w.values[k][0]), w1 = weights(w.values[k][1]);
#pragma GCC unroll 8
        for (int t = 0; t < N; ++t) {
          const __m256i four = four_of(x[t * stride], k);
          add16(part[0][t], pairs(w0, four));
          add16(part[1][t], pairs(w1, four));
        }
      }
#pragma GCC unroll 8
      for (int t = 0; t < N; ++t) {
        add32(dot[0][t], widen(part[0][t]));
        add32(dot[1][t], widen(part[1][t]));
      }
    }
  }
};

// int8: without the offset, and with the weights' signs on the activations, a pair is at most 2 * 127 * 127 = 32258.
struct SignedBytes {
  static constexpr int kRegisters = 2, kTokens = 3, kOffset = 0, kFlip = -128;

  static __m256i product(__m256i size, __m256i w, __m256i x) { return widen(pairs(size, _mm256_sign_epi8(x, w))); }

  static __m256i multiply(const __m256i (&w)[8], const Span& x) {
    __m256i sum = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) add32(sum, product(_mm256_abs_epi8(w[i]), w[i], load32(x.values[i])));
    return sum;
  }

  template <int N>
  static void multiply(const WeightBlock<kRegisters>& w, const TokenBlock* x, size_t stride,
                       __m256i (&dot)[kRegisters][N]) {
#pragma GCC unroll 8
    for (int t = 0; t < N; ++t) dot[0][t] = dot[1][t] = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int k = 0; k < kSteps; ++k) {
      const __m256i w0 = weights(w.values[k][0]), w1 = weights(w.values[k][1]);
      const __m256i size0 = _mm256_abs_epi8(w0), size1 = _mm256_abs_epi8(w1);
#pragma GCC unroll 8
      for (int t = 0; t < N; ++t) {
        const __m256i four = four_of(x[t * stride], k);
        add32(dot[0][t], product(size0, w0, four));
        add32(dot[1][t], product(size1, w1, four));
      }
    }
  }
};

constexpr ManyKernels kManyMxfp4 = many_kernels<SmallBytes, Mxfp4Source>();
constexpr ManyKernels kManyInt8 = many_kernels<SignedBytes, Int8Source>();

}  // namespace

const Kernels& avx2_kernels() {
  static constexpr Kernels kernels = {.isa = Isa::avx2,
                                      .int8_bytes = int8_bytes,
                                      .pack_int8 = pack_int8,
                                      .unpack_int8 = unpack_int8,
                                      .pack_exact = pack_exact,
                                      .mxfp4_int8 = times_int8<SmallBytes, Mxfp4Row>,
                                      .mxfp4_exact = mxfp4_exact,
                                      .int8_int8 = times_int8<SignedBytes, Int8Row<SignedBytes::kFlip>>,
                                      .bf16_exact = bf16_exact,
                                      .swiglu_row = swiglu_row,
                                      .many_mxfp4 = nullptr,
                                      .many_bf16 = nullptr,
                                      .many_mxfp4_int8 = &kManyMxfp4,
                                      .many_int8 = &kManyInt8};
  return kernels;
}

}  // namespace gpt_oss

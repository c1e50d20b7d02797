// The matrix kernels for AVX-VNNI: those of AVX2 with a dot product of bytes, which nothing saturates.
#include "matmul_many_256.h"

namespace gpt_oss {
namespace {

// sum += w * x, four by four. In assembly, for gcc 12 copies the sums of the intrinsic from register to register.
inline void dpbusd(__m256i& sum, __m256i w, __m256i x) {
#if defined(GPT_OSS_GNU)
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(w), "x"(x));
#else
  sum = _mm256_dpbusd_avx_epi32(sum, w, x);
#endif
}

template <int kWeightOffset>
struct Vnni {
  static constexpr int kRegisters = 4, kTokens = 3, kOffset = kWeightOffset, kFlip = 0;

  static __m256i multiply(const __m256i (&w)[8], const Span& x) {
    __m256i sum = load32(x.start);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) dpbusd(sum, w[i], load32(x.values[i]));
    return sum;
  }

  template <int N>
  static void multiply(const WeightBlock<kRegisters>& w, const TokenBlock* x, size_t stride,
                       __m256i (&dot)[kRegisters][N]) {
#pragma GCC unroll 8
    for (int t = 0; t < N; ++t) {
#pragma GCC unroll 8
      for (int r = 0; r < kRegisters; ++r) dot[r][t] = _mm256_set1_epi32(x[t * stride].start);
    }
#pragma GCC unroll 8
    for (int k = 0; k < kSteps; ++k) {
      __m256i four[N];
#pragma GCC unroll 8
      for (int t = 0; t < N; ++t) four[t] = four_of(x[t * stride], k);
#pragma GCC unroll 8
      for (int r = 0; r < kRegisters; ++r) {
        const __m256i eight = weights(w.values[k][r]);
#pragma GCC unroll 8
        for (int t = 0; t < N; ++t) dpbusd(dot[r][t], eight, four[t]);
      }
    }
  }
};

using Mxfp4 = Vnni<kMxfp4Offset>;
using Int8 = Vnni<kInt8Offset>;
constexpr ManyKernels kManyMxfp4 = many_kernels<Mxfp4, Mxfp4Source>();
constexpr ManyKernels kManyInt8 = many_kernels<Int8, Int8Source>();

}  // namespace

const Kernels& avxvnni_kernels() {
  static constexpr Kernels kernels = {.isa = Isa::avxvnni,
                                      .int8_bytes = int8_bytes,
                                      .pack_int8 = pack_int8,
                                      .unpack_int8 = unpack_int8,
                                      .pack_exact = pack_exact,
                                      .mxfp4_int8 = times_int8<Mxfp4, Mxfp4Row>,
                                      .mxfp4_exact = mxfp4_exact,
                                      .int8_int8 = times_int8<Int8, Int8Row<Int8::kFlip>>,
                                      .bf16_exact = bf16_exact,
                                      .swiglu_row = swiglu_row,
                                      .many_mxfp4 = nullptr,
                                      .many_bf16 = nullptr,
                                      .many_mxfp4_int8 = &kManyMxfp4,
                                      .many_int8 = &kManyInt8};
  return kernels;
}

}  // namespace gpt_oss

// The matrix kernels for AVX-VNNI: those of AVX2 with a dot product of bytes that nothing saturates.
#include "matmul_few_256.h"

namespace gpt_oss {
namespace {

struct Vnni {
  static __m256i mxfp4(__m256i even, __m256i odd, __m256i x_even, __m256i x_odd, __m256i start) {
    return _mm256_dpbusd_avx_epi32(_mm256_dpbusd_avx_epi32(start, even, x_even), odd, x_odd);
  }

  static __m256i int8(__m256i even, __m256i odd, __m256i x_even, __m256i x_odd, __m256i start) {
    return mxfp4(even, odd, x_even, x_odd, start);
  }
};

}  // namespace

const Kernels& avxvnni_kernels() {
  static constexpr Kernels kernels = {Isa::avxvnni, pack_int8,  pack_exact, mxfp4_int8<Vnni>, mxfp4_exact,
                                      int8_int8<Vnni>, bf16_exact, swiglu_row, nullptr, nullptr, nullptr, nullptr};
  return kernels;
}

}  // namespace gpt_oss

// The matrix kernels for AVX2, which has no dot product of bytes: vpmaddubsw, whose sums of two products saturate at 16
// bits, and vpmaddwd stand for it. Nothing saturates here: the bounds stand beside each product.
#include "matmul_few_256.h"

namespace gpt_oss {
namespace {

// Sums of two products of bytes, u * x, in 16 bits.
inline __m256i pairs(__m256i u, __m256i x) { return _mm256_maddubs_epi16(u, x); }

inline __m256i widen(__m256i sums) { return _mm256_madd_epi16(sums, _mm256_set1_epi16(1)); }

struct Maddubs {
  // At most 4 * 24 * 127 = 12192 in 16 bits.
  static __m256i mxfp4(__m256i even, __m256i odd, __m256i x_even, __m256i x_odd, __m256i start) {
    return _mm256_add_epi32(widen(_mm256_add_epi16(pairs(even, x_even), pairs(odd, x_odd))), start);
  }

  // Without the offset, and with the weights' signs on the activations: at most 2 * 127 * 127 = 32258.
  static __m256i int8(__m256i even, __m256i odd, __m256i x_even, __m256i x_odd, __m256i) {
    even = _mm256_xor_si256(even, _mm256_set1_epi8(-128));
    odd = _mm256_xor_si256(odd, _mm256_set1_epi8(-128));
    return _mm256_add_epi32(widen(pairs(_mm256_abs_epi8(even), _mm256_sign_epi8(x_even, even))),
                            widen(pairs(_mm256_abs_epi8(odd), _mm256_sign_epi8(x_odd, odd))));
  }
};

}  // namespace

const Kernels& avx2_kernels() {
  static constexpr Kernels kernels = {Isa::avx2,  pack_int8,  pack_exact, mxfp4_int8<Maddubs>, mxfp4_exact,
                                      int8_int8<Maddubs>, bf16_exact, swiglu_row, nullptr, nullptr, nullptr, nullptr};
  return kernels;
}

}  // namespace gpt_oss

// Many tokens in exact precision on AVX2: 12 of the 16 registers are sums.
#include "matmul_exact.h"

namespace gpt_oss {
namespace {

struct Vector {
  using Register = __m256;
  static constexpr int kLanes = 8, kTokens = 6;

  static Register zero() { return _mm256_setzero_ps(); }
  static Register load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Register x) { _mm256_storeu_ps(p, x); }
  static Register broadcast(float x) { return _mm256_set1_ps(x); }
  static Register add(Register sum, Register w, Register x) { return _mm256_fmadd_ps(w, x, sum); }
};

}  // namespace

const ManyKernels& avx2_mxfp4() {
  static constexpr ManyKernels kernels = many_kernels<Vector, Mxfp4Source>();
  return kernels;
}

const ManyKernels& avx2_bf16() {
  static constexpr ManyKernels kernels = many_kernels<Vector, Bf16Source>();
  return kernels;
}

}  // namespace gpt_oss

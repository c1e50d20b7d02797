// Many tokens in exact precision on AVX-512 without BF16: 24 of the 32 registers are sums.
#include "matmul_exact.h"

namespace gpt_oss {
namespace {

struct Vector {
  using Register = __m512;
  static constexpr int kLanes = 16, kTokens = 12;

  static Register zero() { return _mm512_setzero_ps(); }
  static Register load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Register x) { _mm512_storeu_ps(p, x); }
  static Register broadcast(float x) { return _mm512_set1_ps(x); }
  static Register add(Register sum, Register w, Register x) { return _mm512_fmadd_ps(w, x, sum); }
};

}  // namespace

const ManyKernels& avx512_mxfp4() {
  static constexpr ManyKernels kernels = many_kernels<Vector, Mxfp4Source>();
  return kernels;
}

const ManyKernels& avx512_bf16() {
  static constexpr ManyKernels kernels = many_kernels<Vector, Bf16Source>();
  return kernels;
}

}  // namespace gpt_oss

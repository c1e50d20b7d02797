#include <immintrin.h>

#include "probe.h"

namespace gpt_oss {
namespace {

// As in probe_loop.h, with the registers that only AVX-512 has.
template <class Register, class Step>
double repeat(Register start, double operations_a_step, Step step) {
  constexpr int kChains = 16, kRounds = 200000;
  Register chain[kChains];
#pragma GCC unroll 16
  for (int c = 0; c < kChains; ++c) chain[c] = start;
  for (int i = 0; i < kRounds; ++i) {
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) {
      chain[c] = step(chain[c]);
      asm volatile("" : "+v"(chain[c]));
    }
  }
  return operations_a_step * kChains * kRounds;
}

}  // namespace

double probe_vnni512() {
  const __m512i x = _mm512_set1_epi8(1);
  return repeat(x, 128, [&](__m512i sum) { return _mm512_dpbusd_epi32(sum, x, x); });
}

double probe_fma512() {
  const __m512 x = _mm512_set1_ps(1e-3f);
  return repeat(x, 32, [&](__m512 sum) { return _mm512_fmadd_ps(x, x, sum); });
}

}  // namespace gpt_oss

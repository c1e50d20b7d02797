#include <immintrin.h>

#include "probe.h"

namespace gpt_oss {

double probe_bf16_512() {
  constexpr int kChains = 16, kRounds = 100000;
  const __m512bh x = (__m512bh)_mm512_set1_epi16(0x3a00);
  __m512 chain[kChains] = {};
  for (int i = 0; i < kRounds; ++i) {
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) {
      chain[c] = _mm512_dpbf16_ps(chain[c], x, x);
      asm volatile("" : "+v"(chain[c]));
    }
  }
  return 64.0 * kChains * kRounds;
}

}  // namespace gpt_oss

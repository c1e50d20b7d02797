#include <immintrin.h>

#include "probe.h"
#include "probe_loop.h"

namespace gpt_oss {

double probe_fma256() {
  const __m256 x = _mm256_set1_ps(1e-3f);
  return repeat<12>(x, 16, [&](__m256 sum) { return _mm256_fmadd_ps(x, x, sum); });
}

double probe_maddubs256() {
  __m256i x = _mm256_set1_epi8(1);
  const __m256i ones = _mm256_set1_epi16(1);
  return repeat<12>(x, 64, [&](__m256i sum) {
    asm volatile("" : "+x"(x));  // or the pairs would be made once for all
    const __m256i pairs = _mm256_maddubs_epi16(x, x);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
  });
}

}  // namespace gpt_oss

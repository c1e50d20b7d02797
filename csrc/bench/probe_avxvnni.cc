#include <immintrin.h>

#include "probe.h"
#include "probe_loop.h"

namespace gpt_oss {

double probe_vnni256() {
  const __m256i x = _mm256_set1_epi8(1);
  return repeat<12>(x, 64, [&](__m256i sum) { return _mm256_dpbusd_avx_epi32(sum, x, x); });
}

}  // namespace gpt_oss

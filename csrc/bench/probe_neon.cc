#include <arm_neon.h>

#include "probe.h"
#include "probe_loop.h"

namespace gpt_oss {

double probe_sdot() {
  const int8x16_t x = vdupq_n_s8(1);
  return repeat<16>(vdupq_n_s32(0), 32, [&](int32x4_t sum) { return vdotq_s32(sum, x, x); });
}

double probe_fma128() {
  const float32x4_t x = vdupq_n_f32(1e-3f);
  return repeat<16>(x, 8, [&](float32x4_t sum) { return vfmaq_f32(sum, x, x); });
}

}  // namespace gpt_oss

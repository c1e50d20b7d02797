#include <arm_neon.h>

#include "probe.h"
#include "probe_loop.h"

namespace gpt_oss {

double probe_smmla() {
  const int8x16_t x = vdupq_n_s8(1);
  return repeat<16>(vdupq_n_s32(0), 64, [&](int32x4_t sum) { return vmmlaq_s32(sum, x, x); });
}

}  // namespace gpt_oss

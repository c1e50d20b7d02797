// The loop that every probe shares, compiled for each instruction set by its own file.
#pragma once

#if defined(__aarch64__)
#define GPT_OSS_KEEP(x) asm volatile("" : "+w"(x))  // x is a vector register, and may have changed
#else
#define GPT_OSS_KEEP(x) asm volatile("" : "+x"(x))
#endif

namespace gpt_oss {
namespace {

// Repeats kChains independent steps; enough chains to hide the instruction's latency.
template <int kChains, class Register, class Step>
double repeat(Register start, double operations_a_step, Step step) {
  constexpr int kRounds = 200000;
  Register chain[kChains];
#pragma GCC unroll 16
  for (int c = 0; c < kChains; ++c) chain[c] = start;
  for (int i = 0; i < kRounds; ++i) {
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) {
      chain[c] = step(chain[c]);
      GPT_OSS_KEEP(chain[c]);  // or equal chains become one
    }
  }
  return operations_a_step * kChains * kRounds;
}

}  // namespace
}  // namespace gpt_oss

// The loop that every probe shares, compiled for each instruction set by its own file.
#pragma once

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
      asm volatile("" : "+x"(chain[c]));  // or equal chains become one
    }
  }
  return operations_a_step * kChains * kRounds;
}

}  // namespace
}  // namespace gpt_oss

// MXFP4 as bf16 by one look-up. Included by kernels that multiply bf16, each its own copy.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

namespace gpt_oss {
namespace {

// For each scale, 2^(scale - 127) * e2m1 of every nibble as bf16, twice, so that bit 4 of an index does not matter.
using ScaledTable = std::array<std::array<uint16_t, 32>, 256>;

const ScaledTable& scaled_table() {
  alignas(64) static const ScaledTable table = [] {
    ScaledTable t{};
    constexpr float kValues[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    for (int scale = 0; scale < 256; ++scale) {
      for (int i = 0; i < 32; ++i) {
        const float value = std::ldexp(kValues[i & 7], scale - 127) * (i & 8 ? -1 : 1);
        t[scale][i] = scale == 255 ? 0x7fc0 : std::bit_cast<uint32_t>(value) >> 16;
      }
    }
    return t;
  }();
  return table;
}

}  // namespace
}  // namespace gpt_oss

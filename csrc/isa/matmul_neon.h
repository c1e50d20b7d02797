// What the matrix kernels of NEON and of I8MM share: int8 activations, weights unpacked to signed bytes, and the float
// side of a tile of many tokens. Included by their files alone.
#pragma once

#include <arm_neon.h>

#include <algorithm>
#include <cstring>

#include "bf16.h"
#include "kernels.h"
#include "matmul_many.h"

namespace gpt_oss {
namespace {

// Bytes 0, 2, 4 … of 32 values, and 1, 3, 5 …
struct EvenOdd {
  int8x16_t even, odd;
};

// A block of 32 values: value = byte * scale.
struct Quantised {
  EvenOdd bytes;
  float scale;
};

inline Quantised quantise(const float* x) {
  float32x4_t most = vdupq_n_f32(0);
  for (int i = 0; i < kBlock; i += 4) most = vmaxq_f32(most, vabsq_f32(vld1q_f32(x + i)));
  const float greatest = vmaxvq_f32(most);
  const float inverse = greatest > 0 ? 127 / greatest : 0;
  const auto eight = [&](const float* at) {
    const int32x4_t low = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(at), inverse));
    const int32x4_t high = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(at + 4), inverse));
    return vqmovn_s16(vcombine_s16(vqmovn_s32(low), vqmovn_s32(high)));
  };
  const int8x16_t first = vcombine_s8(eight(x), eight(x + 8)), second = vcombine_s8(eight(x + 16), eight(x + 24));
  return {{vuzp1q_s8(first, second), vuzp2q_s8(first, second)}, greatest / 127};
}

// 16 bytes of MXFP4 to twice their values.
inline EvenOdd unpack_nibbles(uint8x16_t bytes) {
  constexpr int8_t kDoubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  const int8x16_t table = vld1q_s8(kDoubled);
  return {vqtbl1q_s8(table, vandq_u8(bytes, vdupq_n_u8(15))), vqtbl1q_s8(table, vshrq_n_u8(bytes, 4))};
}

// 2^(scale - bias), and the half that undoes the doubling; below 2^-126 it becomes zero.
inline float half_e8m0(int scale, int bias) {
  return std::bit_cast<float>(std::max(scale - bias + 126, 0) << 23);
}

// A block of a row: its bytes, less the offset, and its scale.
struct Mxfp4Source {
  static constexpr size_t kBlockBytes = 16;
  const uint8_t *blocks, *scales;
  size_t row_blocks;
  int bias;

  explicit Mxfp4Source(const Rows& w)
      : blocks(static_cast<const uint8_t*>(w.blocks)),
        scales(static_cast<const uint8_t*>(w.scales)),
        row_blocks(w.cols / kBlock),
        bias(w.scale_bias) {}

  size_t row_bytes() const { return row_blocks * kBlockBytes; }
  EvenOdd values(size_t row, int b) const { return unpack_nibbles(vld1q_u8(blocks + (row * row_blocks + b) * 16)); }
  float scale(size_t row, int b) const { return half_e8m0(scales[row * row_blocks + b], bias); }
};

struct Int8Source {
  static constexpr size_t kBlockBytes = 32;
  const uint8_t* bytes;
  const uint16_t* scales;
  size_t row_groups;

  explicit Int8Source(const Rows& w)
      : bytes(static_cast<const uint8_t*>(w.blocks)),
        scales(static_cast<const uint16_t*>(w.scales)),
        row_groups(groups(w.cols)) {}

  size_t row_bytes() const { return row_groups * 128; }

  EvenOdd values(size_t row, int b) const {
    const uint8_t* at = bytes + (row * row_groups + b / 4) * 128 + b % 4 * 16;
    const uint8x16_t offset = vdupq_n_u8(kInt8Offset);
    const auto load = [&](const uint8_t* p) { return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(p), offset)); };
    return {load(at), load(at + 64)};
  }

  float scale(size_t row, int b) const { return from_bf16(scales[row * row_groups * 4 + b]); }
};

// sum += dot * w * x, of int32 sums and float scales.
inline void add_scaled(float32x4_t& sum, int32x4_t dot, float32x4_t w, float32x4_t x) {
  sum = vfmaq_f32(sum, vcvtq_f32_s32(dot), vmulq_f32(w, x));
}

}  // namespace
}  // namespace gpt_oss

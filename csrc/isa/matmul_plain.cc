// The matrix kernels in portable C++: the oracle of the others, and what a machine without vector kernels runs.
#include <cmath>
#include <cstring>

#include "bf16.h"
#include "kernels.h"
#include "matmul_common.h"
#include "matmul_few.h"

namespace gpt_oss {
namespace {

constexpr int8_t kDoubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};  // e2m1, times two

float e8m0(int scale, int bias) { return std::ldexp(1.0f, scale - bias); }

void pack_int8(const float* x, int cols, int offset, void* packed) {
  auto* out = static_cast<Int8Group*>(packed);
  for (int g = 0; g < groups(cols); ++g) {
    Int8Group& group = out[g];
    std::memset(&group, 0, sizeof group);
    for (int b = 0; b < 4 && g * 128 + b * kBlock < cols; ++b) {
      const float* values = x + g * 128 + b * kBlock;
      float greatest = 0;
      for (int i = 0; i < kBlock; ++i) greatest = std::fmax(greatest, std::fabs(values[i]));
      const float scale = greatest / 127, inverse = greatest > 0 ? 127 / greatest : 0;
      int sum = 0;
      for (int i = 0; i < kBlock; ++i) {
        const int q = static_cast<int>(std::nearbyint(values[i] * inverse));
        (i % 2 == 0 ? group.even : group.odd)[b * 16 + i / 2] = static_cast<int8_t>(q);
        sum += q;
      }
      group.start[4 * b] = -offset * sum;
      for (int lane = 0; lane < 4; ++lane) group.scale[4 * b + lane] = scale;
    }
  }
}

// Blocks of float32: the 16 even values, then the odd ones.
void pack_exact(const float* x, int cols, void* packed) {
  auto* out = static_cast<float*>(packed);
  for (int b = 0; b < cols; b += kBlock) {
    for (int i = 0; i < kBlock; ++i) out[b + i % 2 * 16 + i / 2] = from_bf16(to_bf16(x[b + i]));
  }
}

void mxfp4_int8(const Rows& w, const void* const* columns, int count, float* out, size_t stride) {
  const int blocks = w.cols / kBlock;
  for (int r = 0; r < w.rows; ++r) {
    const uint8_t* nibbles = static_cast<const uint8_t*>(w.blocks) + static_cast<size_t>(r) * blocks * 16;
    const uint8_t* scales = static_cast<const uint8_t*>(w.scales) + static_cast<size_t>(r) * blocks;
    for (int c = 0; c < count; ++c) {
      const auto* x = static_cast<const Int8Group*>(columns[c]);
      float sum = 0;
      for (int b = 0; b < blocks; ++b) {
        const Int8Group& group = x[b / 4];
        int dot = 0;
        for (int i = 0; i < 16; ++i) {
          const uint8_t byte = nibbles[b * 16 + i];
          dot += kDoubled[byte & 15] * group.even[b % 4 * 16 + i] + kDoubled[byte >> 4] * group.odd[b % 4 * 16 + i];
        }
        sum += dot * (0.5f * e8m0(scales[b], w.scale_bias) * group.scale[b % 4 * 4]);
      }
      out[c * stride + r] = sum;
    }
  }
}

void mxfp4_exact(const Rows& w, const void* const* columns, int count, float* out, size_t stride) {
  const int blocks = w.cols / kBlock;
  for (int r = 0; r < w.rows; ++r) {
    const uint8_t* nibbles = static_cast<const uint8_t*>(w.blocks) + static_cast<size_t>(r) * blocks * 16;
    const uint8_t* scales = static_cast<const uint8_t*>(w.scales) + static_cast<size_t>(r) * blocks;
    for (int c = 0; c < count; ++c) {
      const float* x = static_cast<const float*>(columns[c]);
      float sum = 0;
      for (int b = 0; b < blocks; ++b) {
        float dot = 0;
        for (int i = 0; i < 16; ++i) {
          const uint8_t byte = nibbles[b * 16 + i];
          dot += kDoubled[byte & 15] * x[b * kBlock + i] + kDoubled[byte >> 4] * x[b * kBlock + 16 + i];
        }
        sum += dot * (0.5f * e8m0(scales[b], w.scale_bias));
      }
      out[c * stride + r] = sum;
    }
  }
}

void int8_int8(const Rows& w, const void* const* columns, int count, float* out, size_t stride) {
  const int n = groups(w.cols);
  for (int r = 0; r < w.rows; ++r) {
    const uint8_t* values = static_cast<const uint8_t*>(w.blocks) + static_cast<size_t>(r) * n * 128;
    const uint16_t* scales = static_cast<const uint16_t*>(w.scales) + static_cast<size_t>(r) * n * 4;
    for (int c = 0; c < count; ++c) {
      const auto* x = static_cast<const Int8Group*>(columns[c]);
      float sum = 0;
      for (int b = 0; b < n * 4; ++b) {
        const Int8Group& group = x[b / 4];
        int dot = 0;
        for (int i = 0; i < 16; ++i) {
          const int at = b % 4 * 16 + i;
          const uint8_t* pair = values + b / 4 * 128 + at;
          dot += (pair[0] - 128) * group.even[at] + (pair[64] - 128) * group.odd[at];
        }
        sum += dot * (from_bf16(scales[b]) * group.scale[b % 4 * 4]);
      }
      out[c * stride + r] = sum;
    }
  }
}

void bf16_exact(const Rows& w, const void* const* columns, int count, float* out, size_t stride) {
  for (int r = 0; r < w.rows; ++r) {
    const uint16_t* row = static_cast<const uint16_t*>(w.blocks) + static_cast<size_t>(r) * w.cols;
    for (int c = 0; c < count; ++c) {
      const float* x = static_cast<const float*>(columns[c]);
      float sum = 0;
      for (int i = 0; i < w.cols; ++i) sum += from_bf16(row[i]) * x[i / kBlock * kBlock + i % 2 * 16 + i % kBlock / 2];
      out[c * stride + r] = sum;
    }
  }
}

}  // namespace

const Kernels& plain_kernels() {
  static constexpr Kernels kernels = {Isa::plain,  group_bytes, pack_int8,  unpack_groups, pack_exact,
                                      mxfp4_int8,  mxfp4_exact, int8_int8,  bf16_exact,    swiglu_row,
                                      nullptr,     nullptr,     nullptr,    nullptr};
  return kernels;
}

}  // namespace gpt_oss

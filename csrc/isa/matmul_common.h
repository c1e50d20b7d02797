// The small loops around the products, written once and compiled for each instruction set by its own file: the compiler
// turns them into vectors of that set's width. Included inside an anonymous namespace's file, so every copy is local.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "bf16.h"
#include "portable.h"

namespace gpt_oss {
namespace {

// e^x to 2 ulp for x <= 88; zero far below. 2^n * (a polynomial on [-ln2 / 2, ln2 / 2]), as in Cephes' expf.
inline float exponential(float x) {
  x = std::min(88.0f, std::max(-87.0f, x));
  const float n = std::rint(x * 1.44269504f);
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return p * std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
}

// g * sigmoid(1.702 g) * (l + 1), after clamping (model.md, "One block").
inline float swiglu(float gate, float linear, float limit) {
  gate = std::min(gate, limit);
  linear = std::min(limit, std::max(-limit, linear));
  return gate / (1.0f + exponential(-1.702f * gate)) * (linear + 1.0f);
}

// One token: in [2 * count] alternates between gate and linear.
inline void swiglu_row(const float* in, const uint16_t* bias, int count, float limit, float* out) {
  for (int i = 0; i < count; ++i) {
    out[i] = swiglu(in[2 * i] + from_bf16(bias[2 * i]), in[2 * i + 1] + from_bf16(bias[2 * i + 1]), limit);
  }
}

// What follows a product of many tokens (ManyKernels), where it lies as [rows][tokens].
struct ByRow {
  static void swiglu(const float* product, const uint16_t* bias, int rows, int tokens, float limit, float* out) {
    for (int i = 0; i < rows / 2; ++i) {
      const float gate_bias = from_bf16(bias[2 * i]), linear_bias = from_bf16(bias[2 * i + 1]);
      const float *gate = product + static_cast<size_t>(2 * i) * tokens, *linear = gate + tokens;
      float* to = out + static_cast<size_t>(i) * tokens;
      for (int t = 0; t < tokens; ++t) to[t] = gpt_oss::swiglu(gate[t] + gate_bias, linear[t] + linear_bias, limit);
    }
  }

  static void store(const float* product, int rows, int tokens, int count, const float* bias, bool add, float* const* y) {
    constexpr int kSide = 16;
    for (int t0 = 0; t0 < count; t0 += kSide) {
      const int t1 = std::min(count, t0 + kSide);
      for (int r0 = 0; r0 < rows; r0 += kSide) {
        const int n = std::min(kSide, rows - r0);
        for (int t = t0; t < t1; ++t) {
          const float* from = product + static_cast<size_t>(r0) * tokens + t;
          float* to = y[t] + r0;
          for (int r = 0; r < n; ++r) to[r] = (add ? to[r] : 0.0f) + from[r * tokens] + (bias ? bias[r0 + r] : 0.0f);
        }
      }
    }
  }
};

// The same where it lies as [tokens][rows padded to whole panels], and what swiglu leaves as half of that.
template <int kPanel>
struct ByToken {
  static size_t stride(int rows) { return static_cast<size_t>((rows + kPanel - 1) / kPanel * kPanel); }

  static void swiglu(const float* product, const uint16_t* bias, int rows, int tokens, float limit, float* out) {
    for (int t = 0; t < tokens; ++t) {
      swiglu_row(product + t * stride(rows), bias, rows / 2, limit, out + t * stride(rows) / 2);
    }
  }

  static void store(const float* product, int rows, int, int count, const float* bias, bool add, float* const* y) {
    for (int t = 0; t < count; ++t) {
      const float* from = product + t * stride(rows);
      float* to = y[t];
      for (int r = 0; r < rows; ++r) to[r] = (add ? to[r] : 0.0f) + from[r] + (bias ? bias[r] : 0.0f);
    }
  }
};

}  // namespace
}  // namespace gpt_oss

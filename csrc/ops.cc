// See ops.h. Sums run over kLanes partial sums, so that a compiler may use vectors without reordering floats itself.
#include "ops.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "bf16.h"

namespace gpt_oss {
namespace {

constexpr int kLanes = 16;

// sum_i f(i) for i < n.
template <class F>
float sum(int n, F f) {
  float lanes[kLanes] = {};
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += f(i + lane);
  }
  for (; i < n; ++i) lanes[i % kLanes] += f(i);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}

}  // namespace

void embed(const uint16_t* row, int hidden, float* out) {
  for (int i = 0; i < hidden; ++i) out[i] = from_bf16(row[i]);
}

void rmsnorm(const float* x, const float* scale, int hidden, float eps, float* out) {
  const float mean = sum(hidden, [x](int i) { return x[i] * x[i]; }) / static_cast<float>(hidden);
  const float factor = 1 / std::sqrt(mean + eps);
  for (int i = 0; i < hidden; ++i) out[i] = x[i] * factor * scale[i];
}

Rotary::Rotary(const RotaryParams& p) : half_(p.head_dim / 2), concentration_(1), frequencies_(half_) {
  const bool scaled = p.scaling_factor > 1;
  if (scaled) concentration_ = 0.1 * std::log(p.scaling_factor) + 1;
  // The dimension that turns `rotations` times within the original context.
  const auto dimension = [&](double rotations) {
    return half_ * std::log(p.initial_context_length / (rotations * 2 * std::numbers::pi)) / std::log(p.theta);
  };
  const double low = dimension(p.ntk_beta), high = dimension(p.ntk_alpha);
  for (int i = 0; i < half_; ++i) {
    const double frequency = std::pow(p.theta, -static_cast<double>(i) / half_);
    const double ramp = scaled ? std::clamp((i - low) / (high - low), 0.0, 1.0) : 0.0;
    frequencies_[i] = frequency * (ramp / p.scaling_factor + 1 - ramp);
  }
}

void Rotary::angles(int position, float* out) const {
  for (int i = 0; i < half_; ++i) {
    const double angle = position * frequencies_[i];
    out[i] = static_cast<float>(std::cos(angle) * concentration_);
    out[half_ + i] = static_cast<float>(std::sin(angle) * concentration_);
  }
}

void Rotary::rotate(const float* angles, int heads, float* x) const {
  const float *cosines = angles, *sines = angles + half_;
  for (int h = 0; h < heads; ++h, x += 2 * half_) {
    for (int i = 0; i < half_; ++i) {
      const float first = x[i], second = x[half_ + i];
      x[i] = first * cosines[i] - second * sines[i];
      x[half_ + i] = second * cosines[i] + first * sines[i];
    }
  }
}

void route(const float* x, const uint16_t* gate, const float* bias, int hidden, int experts, int experts_per_token,
           float* logits, int32_t* picked, float* weights) {
  for (int e = 0; e < experts; ++e) {
    const uint16_t* row = gate + static_cast<int64_t>(e) * hidden;
    logits[e] = sum(hidden, [x, row](int i) { return x[i] * from_bf16(row[i]); }) + bias[e];
    if (std::isnan(logits[e])) logits[e] = -INFINITY;  // so that every pick is an expert whatever the activations are
  }
  float total = 0;
  for (int k = 0; k < experts_per_token; ++k) {
    const auto is_free = [&](int e) { return std::find(picked, picked + k, e) == picked + k; };
    int best = 0;
    while (!is_free(best)) ++best;
    for (int e = best + 1; e < experts; ++e) {
      if (logits[e] > logits[best] && is_free(e)) best = e;
    }
    picked[k] = best;
    weights[k] = logits[best] == logits[picked[0]] ? 1.0f : std::exp(logits[best] - logits[picked[0]]);
    total += weights[k];
  }
  for (int k = 0; k < experts_per_token; ++k) weights[k] /= total;
}

}  // namespace gpt_oss

// The small steps between matrix products, all in float32 and the same on every instruction set: embedding, rmsnorm,
// rotary embedding, router. Rows are independent; the caller spreads them over threads.
// Together under 1% of a token: bytes 2 * hidden to embed, 8 * hidden a norm, 2 * experts * hidden the router's gate.
#pragma once

#include <cstdint>
#include <vector>

namespace gpt_oss {

// out[i] = row[i]; row: bfloat16 [hidden].
void embed(const uint16_t* row, int hidden, float* out);

// out[i] = x[i] / sqrt(mean(x^2) + eps) * scale[i].
void rmsnorm(const float* x, const float* scale, int hidden, float eps, float* out);

struct RotaryParams {
  int head_dim;
  int initial_context_length;
  double theta, scaling_factor, ntk_alpha, ntk_beta;
};

// YaRN (arXiv 2309.00071) with NTK-by-parts, the ramp's ends not rounded.
class Rotary {
 public:
  explicit Rotary(const RotaryParams& params);

  // Angles of one position: cosines [head_dim / 2] then sines [head_dim / 2], times the concentration.
  void angles(int position, float* out) const;

  // Rotates `heads` heads of head_dim values in place; a head's halves are the two coordinates.
  void rotate(const float* angles, int heads, float* x) const;

 private:
  int half_;
  double concentration_;
  std::vector<double> frequencies_;  // [head_dim / 2], radians a position
};

// The experts_per_token greatest logits (of gate . x + bias; the lowest id wins a tie) and the softmax over just those.
//   gate: bfloat16 [experts][hidden]; logits: scratch [experts]; picked, weights: out [experts_per_token], greatest first
void route(const float* x, const uint16_t* gate, const float* bias, int hidden, int experts, int experts_per_token,
           float* logits, int32_t* picked, float* weights);

}  // namespace gpt_oss

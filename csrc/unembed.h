// Draws a token without computing every logit, with exactly the answer of all of them: the int8 form of the
// unembedding, half the bytes of bf16, bounds each logit from both sides; the few rows that can still win are computed
// in full.
//
// Knows hidden states and token ids; nothing of requests, and of sampling only temperature and noise.
#pragma once

#include <cstdint>
#include <vector>

#include "buffer.h"
#include "kernels.h"
#include "matmul.h"

namespace gpt_oss {

// What the bounds need to know of a row: two Euclidean norms, rounded up.
struct RowNorms {
  float error;   // of the row minus its int8 form
  float weight;  // of the row
};

// For rows [begin, end) of a bf16 matrix and the int8 form that quantise_int8 gives them.
void row_norms(const uint16_t* weight, int begin, int end, int cols, RowNorms* norms);

class Unembedding {
 public:
  // `norms` [rows], or none: then every logit is computed from bf16 weights. Only ids below `usable` are ever drawn.
  // Borrows the weights, the norms and `matmul`.
  Unembedding(const Linear& layer, const RowNorms* norms, int usable, Matmul& matmul)
      : layer_(layer), norms_(norms), usable_(usable), matmul_(&matmul) {}

  // argmax over i < usable of logit_i / temperature + gumbel(seed, position, i), in float64, the lowest id winning
  // ties, with logit_i of Matmul::exact_rows; without division and noise at temperature 0. x [hidden].
  int sample(const float* x, double temperature, uint64_t seed, int64_t position);

  // The same for row `row` of those that `screen` was last given: several draws for one reading of the weights.
  int sample_screened(int row, double temperature, uint64_t seed, int64_t position);
  void screen(const float* x, int rows);  // x [rows][hidden], borrowed until the last draw

  // For tests: exact_rows' logit i is within errors[i] of approximate[i]; both [usable].
  void bounds(const float* x, float* approximate, double* errors);

 private:
  // A logit's error is at most error * row.error + weight * row.weight + kTiny.
  struct Slack {
    double error = 0, weight = 0;
  };

  // A hidden state as the kernels take it.
  struct State {
    const float* x = nullptr;
    bool screens = false;  // by int8
    Slack slack;
    Buffer<float> exact;            // [hidden], as the bf16 kernels take it
    Buffer<uint8_t> coarse, fine;   // x as int8, and as int8 what that leaves of x, as the int8 kernels take it
    const float* logits = nullptr;  // [usable], where they have been computed for all rows
  };

  void pack(const float* x, State& state) const;
  void products(const State* states, int n, int first, int count, float* out, size_t stride) const;
  double error_of(const State& state, int row) const;
  int draw(const State& state, double temperature, uint64_t seed, int64_t position);

  Linear layer_;
  const RowNorms* norms_;
  int usable_;
  Matmul* matmul_;

  State single_;
  std::vector<State> states_;
  Buffer<float> logits_;  // [rows][usable]
};

}  // namespace gpt_oss

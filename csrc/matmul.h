// The matrix products of the network: linear layers and the mixture of experts, for a few tokens (decoding, bound by
// memory) and for many (reading a prompt, bound by arithmetic). Knows nothing of attention, layers or files.
//
// Weights are read where they lie. Two precisions:
//   exact     bf16 activations, bf16 linear weights, MXFP4 experts, float32 sums;
//   balanced  int8 activations with a scale for every 32, int8 linear weights likewise, MXFP4 experts.
// With AMX many tokens are computed in bf16 under either precision: the tiles are faster than they need to be.
//
// A row's result depends on its own token only: neither on threads (work is cut between output rows, never along the
// sum) nor, up to kFewTokens tokens a call, on the other tokens of the call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "buffer.h"
#include "isa.h"
#include "pool.h"

namespace gpt_oss {

inline constexpr int kFewTokens = 16;
inline constexpr int kBlock = 32;  // values that share a scale, in MXFP4 and in int8

// Groups of four blocks: what one 64-byte load of MXFP4 holds.
inline constexpr int groups(int cols) { return (cols + 127) / 128; }

enum class Precision { exact, balanced };

// int8 weights: [rows][groups(cols)] of 128 bytes, each the value plus 128; in a group the even values of its four
// blocks, then the odd ones (the order that MXFP4's nibbles come in); missing blocks of the last group hold 128.
// scales: bfloat16 [rows][groups(cols) * 4], zero for missing blocks.
struct Int8Weight {
  const uint8_t* values = nullptr;
  const uint16_t* scales = nullptr;

  static size_t value_bytes(int rows, int cols) { return static_cast<size_t>(rows) * groups(cols) * 128; }
  static size_t scale_count(int rows, int cols) { return static_cast<size_t>(rows) * groups(cols) * 4; }
};

// Quantises rows [begin, end) of a bf16 matrix: scale = max|w| / 127 of a block, rounded up to bf16.
void quantise_int8(const uint16_t* weight, int begin, int end, int cols, uint8_t* values, uint16_t* scales);

// y = W x + bias.
struct Linear {
  int rows = 0;
  int cols = 0;                    // a multiple of 32
  const uint16_t* weight = nullptr;  // bfloat16 [rows][cols]
  Int8Weight int8;                 // balanced precision
  const float* bias = nullptr;     // [rows], or none
};

// One of the two matrices of every expert. Strides are in bytes from one expert to the next.
struct ExpertMatrix {
  const uint8_t* blocks = nullptr;  // [experts][rows][cols / 32][16], low nibble first
  const uint8_t* scales = nullptr;  // [experts][rows][cols / 32]; a value is e2m1 * 2^(scale - scale_bias)
  const uint16_t* bias = nullptr;   // bfloat16 [experts][rows]
  size_t blocks_stride = 0, scales_stride = 0, bias_stride = 0;
  int rows = 0;
  int cols = 0;
};

// y = mlp2(swiglu(mlp1(x))); mlp1's rows alternate between gate and linear.
struct Experts {
  int count = 0;
  int active = 0;  // a token's experts
  int scale_bias = 127;
  float limit = 7.0f;
  ExpertMatrix mlp1;  // hidden -> 2 * intermediate
  ExpertMatrix mlp2;  // intermediate -> hidden
};

struct Kernels;

class Matmul {
 public:
  Matmul(Isa isa, Precision precision, ThreadPool& pool);

  // y[t][r] = (add ? y[t][r] : 0) + bias[r] + sum_c W[r][c] x[t][c]; x [tokens][cols], y [tokens][rows].
  void linear(const Linear& layer, const float* x, int tokens, float* y, bool add = false);

  // y[t] += sum_i weights[t][i] * expert(picked[t][i])(x[t]); x and y [tokens][hidden], picked and weights
  // [tokens][active]; no expert twice for a token.
  void experts(const Experts& layer, const float* x, int tokens, const int32_t* picked, const float* weights, float* y);

  // Rows of bf16 logits as exact precision computes them: y[i] = W[ids[i]] x.
  void exact_rows(const Linear& layer, const float* x, const int32_t* ids, int count, float* y);

  const Kernels& kernels() const { return *kernels_; }
  Precision precision() const { return precision_; }
  ThreadPool& pool() { return *pool_; }

 private:
  struct Slot {
    int token;
    float weight;
  };

  void linear_few(const Linear& layer, const float* x, int tokens, float* y, bool add);
  void linear_many(const Linear& layer, const float* x, int tokens, float* y, bool add);
  void experts_few(const Experts& layer, const float* x, int tokens, float* y);
  void experts_many(const Experts& layer, const float* x, int tokens, float* y);
  void group_by_expert(const Experts& layer, int tokens, const int32_t* picked, const float* weights);
  size_t column_bytes(bool exact, int cols) const;
  void pack_rows(bool exact, const float* x, int count, int cols, int offset, Buffer<uint8_t>& out);
  int task_rows(int rows, int passes) const;

  const Kernels* kernels_;
  Precision precision_;
  ThreadPool* pool_;

  std::vector<int> first_;   // [experts + 1]: where an expert's slots begin
  std::vector<Slot> slots_;  // by expert, then by token
  std::vector<int> used_;    // experts with a slot
  Buffer<uint8_t> packed_, packed_inner_, scratch_;
  Buffer<float> inner_, outer_;
};

}  // namespace gpt_oss

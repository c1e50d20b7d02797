// The forward pass of a gpt-oss network over a batch of chunks of token sequences, with its paged KV cache.
// Knows nothing of files, sampling parameters, or who owns which cache block.
//
// A call reads the weights once whatever the batch, and 4 * kv_heads * head_dim bytes of cache a layer and visible key
// (about half of it where the cache is int8).
// The residual stream is float32. One thread at a time may call; the work is spread over the thread pool. Arguments are
// trusted: model_bindings.cc checks token ids, positions and blocks.
#pragma once

#include <cstdint>
#include <vector>

#include "attention.h"
#include "buffer.h"
#include "matmul.h"
#include "ops.h"
#include "pool.h"
#include "unembed.h"

namespace gpt_oss {

struct ModelShape {
  int layers, experts, experts_per_token, vocab, usable_vocab, hidden, intermediate;
  AttentionShape attention;
  int sliding_window;
  float swiglu_limit, norm_eps;
  RotaryParams rotary;

  bool is_windowed(int layer) const { return layer % 2 == 0; }
  int window(int layer) const { return is_windowed(layer) ? sliding_window : 0; }
};

// Borrowed from the caller, who keeps it alive.
struct LayerWeights {
  const float* attention_norm;  // [hidden]
  Linear qkv;                   // hidden -> qkv_width
  const float* sinks;           // [heads]
  Linear out;                   // heads * head_dim -> hidden
  const float* mlp_norm;        // [hidden]
  const uint16_t* gate;         // bfloat16 [experts][hidden]
  const float* gate_bias;       // [experts]
  Experts experts;
};

struct ModelWeights {
  const uint16_t* embedding;  // bfloat16 [vocab][hidden]
  std::vector<LayerWeights> layers;
  const float* norm;  // [hidden]
  Linear unembedding;  // hidden -> vocab
  const RowNorms* unembedding_norms;  // [vocab], or none in exact precision
};

// New tokens of one sequence: backends/base.py, Chunk.
struct Chunk {
  const int32_t* tokens;
  int count;
  int position;
  const int32_t* blocks;
  const int32_t* window_blocks;
  int logits;
};

class Model {
 public:
  Model(const ModelShape& shape, const ModelWeights& weights, Isa isa, Precision precision, ThreadPool& pool,
        int cache_blocks, int window_cache_blocks, bool read_ahead);

  // Computes every chunk, and keeps the normed hidden rows whose logits are wanted.
  void forward(const std::vector<Chunk>& batch);

  // Rows of the last forward, and their logits: out [rows][vocab].
  int rows() const { return kept_rows_; }
  void logits(float* out);

  // Draws a token from one of them: see unembed.h.
  int sample(int row, double temperature, uint64_t seed, int64_t position);

  // The cache of one layer, [blocks][block_bytes]; see attention.h.
  uint8_t* cache(int layer) { return caches_[layer].data(); }

  const char* attention_kernel() const { return attention_.kernel_name(); }

 private:
  void step(const std::vector<Chunk>& batch);
  void begin(const std::vector<Chunk>& batch);
  void normalise(const float* scale);
  void rotate();
  void route(const LayerWeights& layer);
  void fetch(const Experts& experts);
  void keep(const std::vector<Chunk>& batch);
  template <class F>
  void for_rows(F f);

  ModelShape shape_;
  ModelWeights weights_;
  ThreadPool* pool_;
  Matmul matmul_;
  Unembedding unembedding_;
  Attention attention_;
  Rotary rotary_;
  bool read_ahead_;  // the weights do not fit into memory
  std::vector<Pages<uint8_t>> caches_;  // by layer

  // Of the tokens of one step.
  int tokens_ = 0;
  std::vector<Sequence> full_, windowed_;
  Buffer<float> angles_;    // [tokens][head_dim]
  Buffer<float> residual_;  // [tokens][hidden]
  Buffer<float> normed_;    // [tokens][hidden]
  Buffer<float> qkv_;       // [tokens][qkv_width]
  Buffer<float> attended_;  // [tokens][heads * head_dim]
  Buffer<float> router_logits_;      // [tokens][experts]
  Buffer<int32_t> picked_;           // [tokens][experts_per_token]
  Buffer<float> expert_weights_;     // [tokens][experts_per_token]

  Buffer<float> kept_;  // [kept_rows][hidden]
  int kept_rows_ = 0;
  bool screened_ = false;  // by the unembedding, for sampling
};

}  // namespace gpt_oss

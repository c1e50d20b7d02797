// Attention of new tokens over a paged KV cache: grouped queries, causal, optionally windowed, with sinks.
// Knows nothing of weights, layers or how the cache's blocks are handed out.
//
//   out[t, h] = sum_j softmax_j(q[t, h] . k[j] / sqrt(head_dim), and one more logit, sinks[h], without a value) v[j]
//   over the keys j <= t, and j > t - window where the layer has one; kv head of h is h / (heads / kv_heads).
//
// The cache of one layer is [blocks][kv_heads][K, V]: K is [kBlockTokens][head_dim], V is [head_dim][kBlockTokens] (its
// transpose), bfloat16. With it both products of S = K Q' and O = V' P read the cache along its rows, and queries lie
// across the lanes of a vector, so that the softmax needs no reduction across lanes.
//
// KvType::int8 holds K and V in the same order as int8, then float32 scales [K, V][kBlockTokens]: a token's key (value)
// of a head is its integers times its scale, the greatest magnitude / 127. A span's blocks are expanded to bfloat16 in
// the thread's own memory before they are used, once for all tiles of a task, so that every kernel serves both.
//
// Work is cut into tiles of kColumns queries (tokens x heads of one kv head) by spans of kSpanTokens keys. A span begins
// at a multiple of kSpanTokens; each is reduced by itself and merged in order. So the bits of a row depend on its
// own query and keys alone: neither on threads, nor on the batch, nor on how a prompt was cut into chunks.
//
// FLOPs: 4 * head_dim for every query head and key. Bytes: 4 * kv_heads * head_dim a key (int8: (2 * head_dim + 8) *
// kv_heads), read once for every 64 tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "buffer.h"
#include "isa.h"
#include "pool.h"

namespace gpt_oss {

inline constexpr int kBlockTokens = 32;  // the depth of one AMX bf16 tile, and 4 KiB of keys of a 64-wide head
inline constexpr int kColumns = 32;      // two AVX-512 vectors, or two AMX tiles
inline constexpr int kSpanTokens = 256;  // scores of a tile: 32 KiB; more would leave the L1 cache

// One sequence's new tokens. `blocks[i]` is the physical block of positions i * kBlockTokens and on.
struct Sequence {
  int position;  // of the first new token
  int tokens;
  const int32_t* blocks;
};

enum class KvType { bf16, int8 };

// Throws std::invalid_argument for another name than these two.
KvType parse_kv(const std::string& name);

struct AttentionShape {
  int heads;
  int kv_heads;
  int head_dim;
  KvType kv;

  int group() const { return heads / kv_heads; }
  int qkv_width() const { return (heads + 2 * kv_heads) * head_dim; }
  // Values of one head's keys and values in a block; bytes of them, and of a block.
  size_t head_elements() const { return static_cast<size_t>(2) * kBlockTokens * head_dim; }
  size_t head_bytes() const {
    return kv == KvType::bf16 ? head_elements() * sizeof(uint16_t) : head_elements() + 2 * kBlockTokens * sizeof(float);
  }
  size_t block_bytes() const { return kv_heads * head_bytes(); }
};

// One kernel call: up to kColumns queries over up to kSpanTokens keys. All columns hold valid queries (unused: zeros).
struct SpanArgs {
  const void* queries;           // as laid out by the kernel's QueryLayout, scaled by log2(e) / sqrt(head_dim)
  const int32_t* positions;      // [kColumns]
  int oldest, newest;            // the least and the greatest of them
  int columns;                   // in use
  int head_dim;                  // a multiple of 8 (of 32 for AMX)
  int window;                    // 0: none
  int first_key;                 // position of the first key
  int blocks;                    // of kBlockTokens keys
  const uint16_t* const* cache;  // [blocks]: K, then V, of this head
  float* scratch;                // span_scratch_floats
  float* max;                    // out [kColumns]: greatest score, in units of log2; at least kNothing
  float* sum;                    // out [kColumns]: sum of exp2(score - max)
  float* out;                    // out [head_dim][kColumns]: sum of exp2(score - max) * v
};

inline constexpr float kNothing = -1e30f;  // a maximum over no key at all

inline size_t span_scratch_floats(int head_dim) {
  return static_cast<size_t>(kSpanTokens) * kColumns + static_cast<size_t>(kBlockTokens) * head_dim;
}

// What has been attended to so far: [kColumns] maxima, sums, then [head_dim][kColumns] outputs.
inline size_t state_floats(int head_dim) { return static_cast<size_t>(head_dim + 2) * kColumns; }

enum class QueryLayout {
  kFloat,      // float32 [head_dim][kColumns]
  kBf16Pairs,  // bfloat16 [head_dim / 2][kColumns][2]
};

struct AttentionKernel {
  const char* name;
  QueryLayout layout;
  int head_dim_multiple;
  void (*span)(const SpanArgs&);
  // Merges state `from` into state `into`, both as state_floats has it.
  void (*merge)(float* into, const float* from, int columns, int head_dim);
  // Of one head in one block: KvType::int8 into KvType::bf16.
  void (*expand)(const uint8_t* from, int head_dim, uint16_t* to);
};

// The fastest kernel that `isa` allows for this head_dim.
const AttentionKernel& attention_kernel(Isa isa, int head_dim);

struct AttentionCall {
  const float* qkv;                    // [all tokens][qkv_width], rotated; the sequences' tokens one after the other
  const std::vector<Sequence>& batch;  // with the blocks of this layer's pool
  const uint8_t* cache;                // of this layer
  const float* sinks;                  // [heads]
  int window;                          // 0: none
  float* out;                          // [all tokens][heads * head_dim]
};

class Attention {
 public:
  Attention(const AttentionShape& shape, Isa isa, ThreadPool& pool);

  // Writes keys and values of the new tokens into the cache of one layer; qkv as in AttentionCall.
  void write_cache(const float* qkv, const std::vector<Sequence>& batch, uint8_t* cache);

  void attend(const AttentionCall& call);

  const char* kernel_name() const { return kernel_->name; }

 private:
  struct Task;
  struct Scratch;

  std::vector<Task> plan(const AttentionCall& call) const;
  bool reserve_partials(std::vector<Task>& tasks);
  Scratch scratch(int thread);
  int columns(const Task& task, int tile) const;

  void attend_all(const AttentionCall& call, const Task& task, int thread);
  void attend_span(const AttentionCall& call, const Task& task, int span, int thread);
  void merge_spans(const AttentionCall& call, const Task& task, int thread);

  void fetch(const AttentionCall& call, const Task& task, int span, Scratch& s) const;
  void pack_queries(const AttentionCall& call, const Task& task, int tile, Scratch& s) const;
  void start(const AttentionCall& call, const Task& task, int tile, float* state) const;
  bool reduce(const AttentionCall& call, const Task& task, int tile, int span, Scratch& s, float* partial) const;
  void finish(const AttentionCall& call, const Task& task, int tile, const float* state) const;

  AttentionShape shape_;
  const AttentionKernel* kernel_;
  ThreadPool* pool_;
  size_t scratch_floats_;   // of one thread
  Buffer<float> scratch_;
  Buffer<float> partials_;  // of tasks that were split over keys
};

}  // namespace gpt_oss

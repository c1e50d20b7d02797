// The forward pass of a gpt-oss network over a batch of chunks of token sequences, with its paged KV cache.
// Knows nothing of files, sampling parameters, or who owns which cache block.
//
// A call reads the weights once whatever the batch, and 4 * kv_heads * head_dim bytes of cache a layer and visible key.
// The residual stream is float32. One thread at a time may call forward; the work is spread over the thread pool.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "attention.h"
#include "buffer.h"
#include "matmul.h"
#include "ops.h"
#include "pool.h"

namespace gpt_oss {

struct ModelShape {
  int layers, experts, experts_per_token, vocab, usable_vocab, hidden, intermediate;
  AttentionShape attention;
  int sliding_window;  // of even layers
  float swiglu_limit, norm_eps;
  RotaryParams rotary;

  bool is_windowed(int layer) const { return layer % 2 == 0; }
};


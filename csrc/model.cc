// See model.h. `step` is the network.
#include "model.h"

#include <algorithm>
#include <set>

#include "system.h"

namespace gpt_oss {
namespace {

// More tokens than this are computed in several steps, which bounds the activations' memory (20b: 36 KiB a token).
constexpr int kStepTokens = 2048;

// Rows of the small operations that make one task.
constexpr int kTaskRows = 4;

}  // namespace

Model::Model(const ModelShape& shape, const ModelWeights& weights, Isa isa, Precision precision, ThreadPool& pool,
             int cache_blocks, int window_cache_blocks, bool read_ahead)
    : shape_(shape),
      weights_(weights),
      pool_(&pool),
      matmul_(isa, precision, pool),
      unembedding_(weights.unembedding, weights.unembedding_norms, shape.usable_vocab, matmul_),
      attention_(shape.attention, isa, pool),
      rotary_(shape.rotary),
      read_ahead_(read_ahead) {
  for (int i = 0; i < shape.layers; ++i) {
    const size_t blocks = shape.is_windowed(i) ? window_cache_blocks : cache_blocks;
    caches_.emplace_back(blocks * shape.attention.block_bytes());
  }
}

// Cuts the batch into steps of at most kStepTokens.
void Model::forward(const std::vector<Chunk>& batch) {
  size_t rows = 0;
  for (const Chunk& chunk : batch) rows += chunk.logits;
  kept_.reserve(rows * shape_.hidden);
  kept_rows_ = 0;
  screened_ = false;

  std::vector<Chunk> part;
  int room = kStepTokens;
  for (Chunk rest : batch) {
    while (rest.count > 0) {
      Chunk piece = rest;
      piece.count = std::min(rest.count, room);
      piece.logits = std::max(0, rest.logits - (rest.count - piece.count));
      part.push_back(piece);
      rest.tokens += piece.count;
      rest.position += piece.count;
      rest.count -= piece.count;
      rest.logits -= piece.logits;
      room -= piece.count;
      if (room == 0) {
        step(part);
        part.clear();
        room = kStepTokens;
      }
    }
  }
  if (!part.empty()) step(part);
}

void Model::step(const std::vector<Chunk>& batch) {
  begin(batch);
  for (int i = 0; i < shape_.layers; ++i) {
    const LayerWeights& layer = weights_.layers[i];
    const std::vector<Sequence>& sequences = shape_.is_windowed(i) ? windowed_ : full_;

    normalise(layer.attention_norm);
    matmul_.linear(layer.qkv, normed_.data(), tokens_, qkv_.data());
    rotate();
    attention_.write_cache(qkv_.data(), sequences, cache(i));
    attention_.attend({qkv_.data(), sequences, cache(i), layer.sinks, shape_.window(i), attended_.data()});
    matmul_.linear(layer.out, attended_.data(), tokens_, residual_.data(), /*add=*/true);

    normalise(layer.mlp_norm);
    route(layer);
    if (read_ahead_) fetch(layer.experts);
    matmul_.experts(layer.experts, normed_.data(), tokens_, picked_.data(), expert_weights_.data(), residual_.data());
  }
  keep(batch);
}

template <class F>
void Model::for_rows(F f) {
  pool_->run((tokens_ + kTaskRows - 1) / kTaskRows, [&](int task, int) {
    const int end = std::min(tokens_, (task + 1) * kTaskRows);
    for (int row = task * kTaskRows; row < end; ++row) f(static_cast<size_t>(row));
  });
}

// Makes room for the step's tokens, embeds them, and finds their angles.
void Model::begin(const std::vector<Chunk>& batch) {
  full_.clear();
  windowed_.clear();
  std::vector<int32_t> ids, positions;
  for (const Chunk& chunk : batch) {
    full_.push_back({chunk.position, chunk.count, chunk.blocks});
    windowed_.push_back({chunk.position, chunk.count, chunk.window_blocks});
    for (int i = 0; i < chunk.count; ++i) {
      ids.push_back(chunk.tokens[i]);
      positions.push_back(chunk.position + i);
    }
  }
  tokens_ = static_cast<int>(ids.size());
  const AttentionShape& attention = shape_.attention;
  const size_t n = ids.size(), hidden = shape_.hidden, head_dim = attention.head_dim;
  angles_.reserve(n * head_dim);
  residual_.reserve(n * hidden);
  normed_.reserve(n * hidden);
  qkv_.reserve(n * attention.qkv_width());
  attended_.reserve(n * attention.heads * head_dim);
  router_logits_.reserve(n * shape_.experts);
  picked_.reserve(n * shape_.experts_per_token);
  expert_weights_.reserve(n * shape_.experts_per_token);
  for_rows([&](size_t row) {
    embed(weights_.embedding + ids[row] * hidden, shape_.hidden, residual_.data() + row * hidden);
    rotary_.angles(positions[row], angles_.data() + row * head_dim);
  });
}

void Model::normalise(const float* scale) {
  for_rows([&](size_t row) {
    const size_t at = row * shape_.hidden;
    rmsnorm(residual_.data() + at, scale, shape_.hidden, shape_.norm_eps, normed_.data() + at);
  });
}

// Queries and keys: they come before the values in a row of qkv.
void Model::rotate() {
  const AttentionShape& attention = shape_.attention;
  for_rows([&](size_t row) {
    rotary_.rotate(angles_.data() + row * attention.head_dim, attention.heads + attention.kv_heads,
                   qkv_.data() + row * attention.qkv_width());
  });
}

void Model::route(const LayerWeights& layer) {
  for_rows([&](size_t row) {
    gpt_oss::route(normed_.data() + row * shape_.hidden, layer.gate, layer.gate_bias, shape_.hidden, shape_.experts,
                   shape_.experts_per_token, router_logits_.data() + row * shape_.experts,
                   picked_.data() + row * shape_.experts_per_token,
                   expert_weights_.data() + row * shape_.experts_per_token);
  });
}

// Large reads in the order of use, in place of a page fault for every few pages.
void Model::fetch(const Experts& experts) {
  const std::set<int32_t> picked(picked_.data(), picked_.data() + static_cast<size_t>(tokens_) * experts.active);
  for (const ExpertMatrix* m : {&experts.mlp1, &experts.mlp2}) {
    const size_t values = static_cast<size_t>(m->rows) * m->cols;
    for (const int32_t expert : picked) {
      will_need(m->blocks + expert * m->blocks_stride, values / 2);
      will_need(m->scales + expert * m->scales_stride, values / kBlock);
    }
  }
}

void Model::keep(const std::vector<Chunk>& batch) {
  size_t end = 0;
  for (const Chunk& chunk : batch) {
    end += chunk.count;
    for (size_t row = end - chunk.logits; row < end; ++row) {
      rmsnorm(residual_.data() + row * shape_.hidden, weights_.norm, shape_.hidden, shape_.norm_eps,
              kept_.data() + static_cast<size_t>(kept_rows_++) * shape_.hidden);
    }
  }
}

void Model::logits(float* out) { matmul_.linear(weights_.unembedding, kept_.data(), kept_rows_, out); }

int Model::sample(int row, double temperature, uint64_t seed, int64_t position) {
  if (kept_rows_ == 1) return unembedding_.sample(kept_.data(), temperature, seed, position);
  if (!screened_) unembedding_.screen(kept_.data(), kept_rows_);
  screened_ = true;
  return unembedding_.sample_screened(row, temperature, seed, position);
}

}  // namespace gpt_oss

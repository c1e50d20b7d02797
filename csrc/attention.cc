// Plans tiles and spans of attention over the threads; the arithmetic is in isa/attention_*.cc.
#include "attention.h"

#include <algorithm>
#include <cmath>

#include "bf16.h"

namespace gpt_oss {

extern const AttentionKernel kAttention_plain;
#if defined(__x86_64__)
extern const AttentionKernel kAttention_avx2, kAttention_avx512, kAttention_avx512bf16, kAttention_amx;
#elif defined(__aarch64__)
extern const AttentionKernel kAttention_neon;
#endif

namespace {

// Tiles of one task share each span of keys and values while it lies in the L2 cache: 64 tokens of 8 grouped heads.
constexpr int kTaskTiles = 16;

// With fewer tasks for each thread than this, tasks are split over their spans as well.
constexpr size_t kTasksPerThread = 4;

constexpr size_t kMostPartialBytes = size_t{64} << 20;
constexpr int kSpanBlocks = kSpanTokens / kBlockTokens;
constexpr float kLog2E = 1.44269504f;

const AttentionKernel* exact_match(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::amx: return &kAttention_amx;
    case Isa::avx512bf16: return &kAttention_avx512bf16;
    case Isa::avx512: return &kAttention_avx512;
    case Isa::avxvnni:
    case Isa::avx2: return &kAttention_avx2;
#elif defined(__aarch64__)
    case Isa::i8mm:
    case Isa::neon: return &kAttention_neon;
#endif
    default: return &kAttention_plain;
  }
}

int first_visible(int position, int window) { return window == 0 ? 0 : std::max(0, position - window + 1); }

}  // namespace

const AttentionKernel& attention_kernel(Isa isa, int head_dim) {
  const AttentionKernel* kernel = exact_match(isa);
#if defined(__x86_64__)
  if (head_dim % kernel->head_dim_multiple != 0) kernel = &kAttention_avx512;  // AMX, and heads that leave a part tile
#endif
  return *kernel;
}

struct Attention::Task {
  const Sequence* sequence;
  int row;   // of the sequence's first token in the batch
  int head;  // kv head
  int first_tile, tiles;
  int first_span, spans;
  float* partials = nullptr;  // [spans][tiles] states, where the task was split

  size_t cost() const { return static_cast<size_t>(tiles) * spans; }
};

// One thread's working memory, carved from scratch_.
struct Attention::Scratch {
  float* span;
  float* partial;  // one state
  float* states;   // [kTaskTiles] states
  float* queries;  // [kTaskTiles][head_dim][kColumns], or half of it for bfloat16
  int32_t positions[kColumns];
};

Attention::Attention(const AttentionShape& shape, Isa isa, ThreadPool& pool)
    : shape_(shape), kernel_(&attention_kernel(isa, shape.head_dim)), pool_(&pool) {
  const size_t state = state_floats(shape.head_dim);
  scratch_floats_ = span_scratch_floats(shape.head_dim) + state + kTaskTiles * 2 * state;
  scratch_ = Buffer<float>(scratch_floats_ * static_cast<size_t>(pool.size()));
}

Attention::Scratch Attention::scratch(int thread) {
  const size_t state = state_floats(shape_.head_dim);
  Scratch s;
  s.span = scratch_.data() + thread * scratch_floats_;
  s.partial = s.span + span_scratch_floats(shape_.head_dim);
  s.states = s.partial + state;
  s.queries = s.states + kTaskTiles * state;
  return s;
}

void Attention::write_cache(const float* qkv, const std::vector<Sequence>& batch, uint16_t* cache) {
  const int head_dim = shape_.head_dim;
  int row = 0;
  for (const Sequence& sequence : batch) {
    const float* first = qkv + static_cast<size_t>(row) * shape_.qkv_width() + shape_.heads * head_dim;
    // By whole blocks, so that no two threads write one cache line of the transposed values.
    const int first_block = sequence.position / kBlockTokens;
    const int blocks = (sequence.position + sequence.tokens - 1) / kBlockTokens - first_block + 1;
    pool_->run(blocks, [&](int i, int) {
      const int block = first_block + i;
      uint16_t* to = cache + sequence.blocks[block] * shape_.block_elements();
      const int begin = std::max(sequence.position, block * kBlockTokens);
      const int end = std::min(sequence.position + sequence.tokens, (block + 1) * kBlockTokens);
      for (int position = begin; position < end; ++position) {
        const float* k = first + static_cast<size_t>(position - sequence.position) * shape_.qkv_width();
        const float* v = k + shape_.kv_heads * head_dim;
        const int slot = position % kBlockTokens;
        for (int h = 0; h < shape_.kv_heads; ++h) {
          uint16_t* keys = to + h * shape_.head_elements();
          uint16_t* values = keys + kBlockTokens * head_dim;
          for (int d = 0; d < head_dim; ++d) {
            keys[slot * head_dim + d] = to_bf16(k[h * head_dim + d]);
            values[d * kBlockTokens + slot] = to_bf16(v[h * head_dim + d]);
          }
        }
      }
      // Values of hidden keys have weight 0, but 0 times what another sequence left there may be NaN.
      const int used = end - block * kBlockTokens;
      for (int h = 0; h < shape_.kv_heads; ++h) {
        uint16_t* values = to + h * shape_.head_elements() + kBlockTokens * head_dim;
        for (int d = 0; d < head_dim; ++d) std::fill_n(values + d * kBlockTokens + used, kBlockTokens - used, 0);
      }
    });
    row += sequence.tokens;
  }
}

void Attention::attend(const AttentionCall& call) {
  std::vector<Task> tasks = plan(call);
  if (tasks.size() < kTasksPerThread * static_cast<size_t>(pool_->size()) && reserve_partials(tasks)) {
    std::vector<std::pair<const Task*, int>> pieces;
    for (const Task& task : tasks) {
      for (int span = 0; span < task.spans; ++span) pieces.emplace_back(&task, span);
    }
    pool_->run(static_cast<int>(pieces.size()), [&](int i, int thread) { attend_span(call, *pieces[i].first, pieces[i].second, thread); });
    pool_->run(static_cast<int>(tasks.size()), [&](int i, int thread) { merge_spans(call, tasks[i], thread); });
  } else {
    pool_->run(static_cast<int>(tasks.size()), [&](int i, int thread) { attend_all(call, tasks[i], thread); });
  }
}

// The longest first, so that threads end together.
std::vector<Attention::Task> Attention::plan(const AttentionCall& call) const {
  std::vector<Task> tasks;
  int row = 0;
  for (const Sequence& sequence : call.batch) {
    const int group = shape_.group();
    const int tiles = (sequence.tokens * group + kColumns - 1) / kColumns;
    for (int tile = 0; tile < tiles; tile += kTaskTiles) {
      const int count = std::min(kTaskTiles, tiles - tile);
      const int oldest = sequence.position + tile * kColumns / group;
      const int newest = sequence.position + std::min(sequence.tokens, ((tile + count) * kColumns - 1) / group + 1) - 1;
      const int first_span = first_visible(oldest, call.window) / kSpanTokens;
      const int spans = newest / kSpanTokens - first_span + 1;
      for (int head = 0; head < shape_.kv_heads; ++head) {
        tasks.push_back({&sequence, row, head, tile, count, first_span, spans});
      }
    }
    row += sequence.tokens;
  }
  std::stable_sort(tasks.begin(), tasks.end(), [](const Task& a, const Task& b) { return a.cost() > b.cost(); });
  return tasks;
}

// False where there is nothing to split, or where it would take too much memory.
bool Attention::reserve_partials(std::vector<Task>& tasks) {
  const size_t state = state_floats(shape_.head_dim);
  size_t states = 0;
  bool splittable = false;
  for (const Task& task : tasks) {
    states += task.cost();
    splittable |= task.spans > 1;
  }
  if (!splittable || states * state * sizeof(float) > kMostPartialBytes) return false;
  if (partials_.size() < states * state) partials_ = Buffer<float>(states * state);
  float* next = partials_.data();
  for (Task& task : tasks) {
    task.partials = next;
    next += task.cost() * state;
  }
  return true;
}

void Attention::attend_all(const AttentionCall& call, const Task& task, int thread) {
  Scratch s = scratch(thread);
  const size_t state = state_floats(shape_.head_dim);
  for (int t = 0; t < task.tiles; ++t) {
    pack_queries(call, task, t, s);
    start(call, task, t, s.states + t * state);
  }
  for (int span = 0; span < task.spans; ++span) {
    for (int t = 0; t < task.tiles; ++t) {
      if (reduce(call, task, t, span, s, s.partial)) {
        kernel_->merge(s.states + t * state, s.partial, columns(task, t), shape_.head_dim);
      }
    }
  }
  for (int t = 0; t < task.tiles; ++t) finish(call, task, t, s.states + t * state);
}

void Attention::attend_span(const AttentionCall& call, const Task& task, int span, int thread) {
  Scratch s = scratch(thread);
  const size_t state = state_floats(shape_.head_dim);
  for (int t = 0; t < task.tiles; ++t) {
    float* partial = task.partials + (static_cast<size_t>(span) * task.tiles + t) * state;
    pack_queries(call, task, t, s);
    if (!reduce(call, task, t, span, s, partial)) {
      std::fill_n(partial, kColumns, kNothing);
      std::fill_n(partial + kColumns, state - kColumns, 0.0f);
    }
  }
}

void Attention::merge_spans(const AttentionCall& call, const Task& task, int thread) {
  float* total = scratch(thread).states;
  const size_t state = state_floats(shape_.head_dim);
  for (int t = 0; t < task.tiles; ++t) {
    start(call, task, t, total);
    for (int span = 0; span < task.spans; ++span) {
      const float* partial = task.partials + (static_cast<size_t>(span) * task.tiles + t) * state;
      kernel_->merge(total, partial, columns(task, t), shape_.head_dim);
    }
    finish(call, task, t, total);
  }
}

int Attention::columns(const Task& task, int tile) const {
  return std::min(kColumns, task.sequence->tokens * shape_.group() - (task.first_tile + tile) * kColumns);
}

// One span's part of a tile, into `partial`; false where no column sees any of it.
bool Attention::reduce(const AttentionCall& call, const Task& task, int tile, int span, Scratch& s, float* partial) const {
  const Sequence& sequence = *task.sequence;
  const int used = columns(task, tile), first_column = (task.first_tile + tile) * kColumns;
  for (int c = 0; c < kColumns; ++c) {
    s.positions[c] = sequence.position + (first_column + std::min(c, used - 1)) / shape_.group();
  }
  const int oldest = s.positions[0], newest = s.positions[kColumns - 1];
  const int span_block = (task.first_span + span) * kSpanBlocks;
  const int first = std::max(span_block, first_visible(oldest, call.window) / kBlockTokens);
  const int last = std::min(span_block + kSpanBlocks - 1, newest / kBlockTokens);
  if (first > last) return false;

  const uint16_t* cache[kSpanBlocks];
  for (int b = first; b <= last; ++b) {
    cache[b - first] =
        call.cache + sequence.blocks[b] * shape_.block_elements() + task.head * shape_.head_elements();
  }
  kernel_->span({.queries = s.queries + static_cast<size_t>(tile) * kColumns * shape_.head_dim,
                 .positions = s.positions,
                 .oldest = oldest,
                 .newest = newest,
                 .columns = used,
                 .head_dim = shape_.head_dim,
                 .window = call.window,
                 .first_key = first * kBlockTokens,
                 .blocks = last - first + 1,
                 .cache = cache,
                 .scratch = s.span,
                 .max = partial,
                 .sum = partial + kColumns,
                 .out = partial + 2 * kColumns});
  return true;
}

void Attention::pack_queries(const AttentionCall& call, const Task& task, int tile, Scratch& s) const {
  const int head_dim = shape_.head_dim, group = shape_.group(), used = columns(task, tile);
  const float scale = kLog2E / std::sqrt(static_cast<float>(head_dim));
  float* floats = s.queries + static_cast<size_t>(tile) * kColumns * head_dim;
  auto* pairs = reinterpret_cast<uint16_t*>(floats);
  for (int c = 0; c < kColumns; ++c) {
    const int column = (task.first_tile + tile) * kColumns + std::min(c, used - 1);
    const float* q = call.qkv + static_cast<size_t>(task.row + column / group) * shape_.qkv_width() +
                     (task.head * group + column % group) * head_dim;
    if (kernel_->layout == QueryLayout::kFloat) {
      for (int d = 0; d < head_dim; ++d) floats[d * kColumns + c] = q[d] * scale;
    } else {
      for (int d = 0; d < head_dim; ++d) pairs[(d / 2 * kColumns + c) * 2 + d % 2] = to_bf16(q[d] * scale);
    }
  }
}

// The sink is there before any key: its logit is the maximum, its weight is 1, its value is zero.
void Attention::start(const AttentionCall& call, const Task& task, int tile, float* state) const {
  for (int c = 0; c < kColumns; ++c) {
    const int column = (task.first_tile + tile) * kColumns + c;
    state[c] = call.sinks[task.head * shape_.group() + column % shape_.group()] * kLog2E;
    state[kColumns + c] = 1;
  }
  std::fill_n(state + 2 * kColumns, kColumns * shape_.head_dim, 0.0f);
}

void Attention::finish(const AttentionCall& call, const Task& task, int tile, const float* state) const {
  const int head_dim = shape_.head_dim, group = shape_.group(), used = columns(task, tile);
  for (int c = 0; c < used; ++c) {
    const int column = (task.first_tile + tile) * kColumns + c;
    float* out = call.out + static_cast<size_t>(task.row + column / group) * shape_.heads * head_dim +
                 (task.head * group + column % group) * head_dim;
    const float weight = 1 / state[kColumns + c];
    for (int d = 0; d < head_dim; ++d) out[d] = state[(d + 2) * kColumns + c] * weight;
  }
}

}  // namespace gpt_oss

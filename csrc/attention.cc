// Plans tiles and spans of attention over the threads; the arithmetic is in isa/attention_*.cc.
#include "attention.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "bf16.h"
#include "portable.h"

namespace gpt_oss {

extern const AttentionKernel kAttention_plain;
#if defined(GPT_OSS_X86_64)
extern const AttentionKernel kAttention_avx2, kAttention_avx512, kAttention_avx512bf16;
#if defined(GPT_OSS_AMX)
extern const AttentionKernel kAttention_amx;
#endif
#elif defined(GPT_OSS_ARM64)
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
#if defined(GPT_OSS_X86_64)
#if defined(GPT_OSS_AMX)
    case Isa::amx: return &kAttention_amx;
#endif
    case Isa::avx512bf16: return &kAttention_avx512bf16;
    case Isa::avx512: return &kAttention_avx512;
    case Isa::avxvnni:
    case Isa::avx2: return &kAttention_avx2;
#elif defined(GPT_OSS_ARM64)
    case Isa::i8mm:
    case Isa::neon: return &kAttention_neon;
#endif
    default: return &kAttention_plain;
  }
}

int first_visible(int position, int window) { return window == 0 ? 0 : std::max(0, position - window + 1); }

// Writes n integers, `stride` apart, and returns the scale: times it they are x, to half of it.
float quantise(const float* x, int n, int8_t* to, int stride) {
  float greatest = 0;
  for (int i = 0; i < n; ++i) greatest = std::max(greatest, std::abs(x[i]));
  const float inverse = greatest > 0 ? 127 / greatest : 0;
  for (int i = 0; i < n; ++i) to[i * stride] = static_cast<int8_t>(std::lrint(x[i] * inverse));
  return greatest / 127;
}

// One head's part of a block, as KvType::bf16 and KvType::int8 have it: takes the key and value of one token, and
// clears the values from a slot on.
struct Bf16Head {
  uint16_t *keys, *values;
  int head_dim;

  Bf16Head(uint8_t* at, int head_dim)
      : keys(reinterpret_cast<uint16_t*>(at)), values(keys + kBlockTokens * head_dim), head_dim(head_dim) {}
  void put(int slot, const float* k, const float* v) {
    for (int d = 0; d < head_dim; ++d) {
      keys[slot * head_dim + d] = to_bf16(k[d]);
      values[d * kBlockTokens + slot] = to_bf16(v[d]);
    }
  }
  void clear_values(int slot) {
    for (int d = 0; d < head_dim; ++d) std::fill(values + d * kBlockTokens + slot, values + (d + 1) * kBlockTokens, 0);
  }
};

struct Int8Head {
  int8_t *keys, *values;
  float* scales;
  int head_dim;

  Int8Head(uint8_t* at, int head_dim)
      : keys(reinterpret_cast<int8_t*>(at)),
        values(keys + kBlockTokens * head_dim),
        scales(reinterpret_cast<float*>(values + kBlockTokens * head_dim)),
        head_dim(head_dim) {}
  void put(int slot, const float* k, const float* v) {
    scales[slot] = quantise(k, head_dim, keys + slot * head_dim, 1);
    scales[kBlockTokens + slot] = quantise(v, head_dim, values + slot, kBlockTokens);
  }
  void clear_values(int slot) { std::fill(scales + kBlockTokens + slot, scales + 2 * kBlockTokens, 0.0f); }
};

// Keys and values of one block's new tokens, `tokens` from `slot` on; k and v are rows of `stride` floats.
template <class Head>
void write_block(const AttentionShape& shape, const float* k, const float* v, int slot, int tokens, uint8_t* to) {
  const size_t stride = shape.qkv_width();
  for (int h = 0; h < shape.kv_heads; ++h) {
    Head head(to + h * shape.head_bytes(), shape.head_dim);
    const float *key = k + h * shape.head_dim, *value = v + h * shape.head_dim;
    for (int i = 0; i < tokens; ++i) head.put(slot + i, key + i * stride, value + i * stride);
    // Values of hidden keys have weight 0, but 0 times what another sequence left there may be NaN.
    head.clear_values(slot + tokens);
  }
}

}  // namespace

KvType parse_kv(const std::string& name) {
  if (name == "bf16") return KvType::bf16;
  if (name == "int8") return KvType::int8;
  throw std::invalid_argument("keys and values are kept as bf16 or int8, not " + name);
}

const AttentionKernel& attention_kernel(Isa isa, [[maybe_unused]] int head_dim) {
  const AttentionKernel* kernel = exact_match(isa);
#if defined(GPT_OSS_X86_64)
  if (head_dim % kernel->head_dim_multiple != 0) kernel = &kAttention_avx512;  // AMX, and heads that leave a part tile
#endif
  return *kernel;
}

struct Attention::Task {
  const Sequence* sequence;
  int row;   // of the sequence's first token in the batch
  int head;  // kv head
  int oldest, newest;  // positions of its first and last token
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
  uint16_t* expanded;  // [kSpanBlocks][head_elements], where the cache is int8
  const uint16_t* cache[kSpanBlocks];  // of the span: what SpanArgs wants, for the blocks that the task sees
  int32_t positions[kColumns];
};

Attention::Attention(const AttentionShape& shape, Isa isa, ThreadPool& pool)
    : shape_(shape), kernel_(&attention_kernel(isa, shape.head_dim)), pool_(&pool) {
  const size_t state = state_floats(shape.head_dim);
  scratch_floats_ = span_scratch_floats(shape.head_dim) + state + kTaskTiles * 2 * state;
  if (shape.kv == KvType::int8) scratch_floats_ += kSpanBlocks * shape.head_elements() / 2;
  scratch_ = Buffer<float>(scratch_floats_ * static_cast<size_t>(pool.size()));
}

Attention::Scratch Attention::scratch(int thread) {
  const size_t state = state_floats(shape_.head_dim);
  Scratch s;
  s.span = scratch_.data() + thread * scratch_floats_;
  s.partial = s.span + span_scratch_floats(shape_.head_dim);
  s.states = s.partial + state;
  s.queries = s.states + kTaskTiles * state;
  s.expanded = reinterpret_cast<uint16_t*>(s.queries + kTaskTiles * state);
  return s;
}

void Attention::write_cache(const float* qkv, const std::vector<Sequence>& batch, uint8_t* cache) {
  const auto write = shape_.kv == KvType::bf16 ? write_block<Bf16Head> : write_block<Int8Head>;
  const float* first = qkv + shape_.heads * shape_.head_dim;  // key of the sequence's first token
  for (const Sequence& sequence : batch) {
    // By whole blocks, so that no two threads write one cache line of the transposed values.
    const int first_block = sequence.position / kBlockTokens;
    const int blocks = (sequence.position + sequence.tokens - 1) / kBlockTokens - first_block + 1;
    pool_->run(blocks, [&](int i, int) {
      const int block = first_block + i;
      const int begin = std::max(sequence.position, block * kBlockTokens);
      const int end = std::min(sequence.position + sequence.tokens, (block + 1) * kBlockTokens);
      const float* k = first + static_cast<size_t>(begin - sequence.position) * shape_.qkv_width();
      write(shape_, k, k + shape_.kv_heads * shape_.head_dim, begin % kBlockTokens, end - begin,
            cache + sequence.blocks[block] * shape_.block_bytes());
    });
    first += static_cast<size_t>(sequence.tokens) * shape_.qkv_width();
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
        tasks.push_back({&sequence, row, head, oldest, newest, tile, count, first_span, spans});
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
    fetch(call, task, span, s);
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
  fetch(call, task, span, s);
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

// Finds the blocks of a span that any of the task's tiles sees, for `reduce`.
void Attention::fetch(const AttentionCall& call, const Task& task, int span, Scratch& s) const {
  const int span_block = (task.first_span + span) * kSpanBlocks;
  const int first = std::max(span_block, first_visible(task.oldest, call.window) / kBlockTokens);
  const int last = std::min(span_block + kSpanBlocks - 1, task.newest / kBlockTokens);
  for (int b = first; b <= last; ++b) {
    const uint8_t* at = call.cache + task.sequence->blocks[b] * shape_.block_bytes() + task.head * shape_.head_bytes();
    const uint16_t*& found = s.cache[b - span_block];
    if (shape_.kv == KvType::bf16) {
      found = reinterpret_cast<const uint16_t*>(at);
    } else {
      uint16_t* to = s.expanded + (b - span_block) * shape_.head_elements();
      kernel_->expand(at, shape_.head_dim, to);
      found = to;
    }
  }
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

  kernel_->span({.queries = s.queries + static_cast<size_t>(tile) * kColumns * shape_.head_dim,
                 .positions = s.positions,
                 .oldest = oldest,
                 .newest = newest,
                 .columns = used,
                 .head_dim = shape_.head_dim,
                 .window = call.window,
                 .first_key = first * kBlockTokens,
                 .blocks = last - first + 1,
                 .cache = s.cache + (first - span_block),
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

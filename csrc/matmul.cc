#include "matmul.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "bf16.h"
#include "kernels.h"

namespace gpt_oss {
namespace {

constexpr int kLeastRows = 32, kMostRows = 128;  // of a few-token task: 50 to 200 KB of MXFP4, some microseconds
constexpr int kFewEach = 8, kFewEachExact = 4;  // tokens an expert on average: about where the two kinds of kernels meet
constexpr int kManyTokens = 256;  // packed at once: 1.5 MB for 20b, which the L2 cache holds beside a panel

uint8_t* part(Buffer<uint8_t>& buffer, size_t bytes_each, int index) { return buffer.data() + bytes_each * index; }

size_t round_up(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

Rows rows_of(const ExpertMatrix& m, int expert, int first, int count, int scale_bias) {
  const size_t blocks = m.cols / kBlock;
  return {m.blocks + expert * m.blocks_stride + first * blocks * 16, m.scales + expert * m.scales_stride + first * blocks,
          count, m.cols, scale_bias};
}

const uint16_t* bias_of(const ExpertMatrix& m, int expert) {
  return reinterpret_cast<const uint16_t*>(reinterpret_cast<const uint8_t*>(m.bias) + expert * m.bias_stride);
}

}  // namespace

void quantise_int8(const uint16_t* weight, int begin, int end, int cols, uint8_t* values, uint16_t* scales) {
  const int n = groups(cols);
  for (int r = begin; r < end; ++r) {
    uint8_t* row = values + static_cast<size_t>(r) * n * 128;
    uint16_t* row_scales = scales + static_cast<size_t>(r) * n * 4;
    std::memset(row, 128, static_cast<size_t>(n) * 128);
    std::memset(row_scales, 0, static_cast<size_t>(n) * 4 * sizeof(uint16_t));
    for (int b = 0; b < cols / kBlock; ++b) {
      const uint16_t* from = weight + static_cast<size_t>(r) * cols + b * kBlock;
      float greatest = 0;
      for (int i = 0; i < kBlock; ++i) greatest = std::max(greatest, std::fabs(from_bf16(from[i])));
      uint16_t scale = to_bf16(greatest / 127);
      if (from_bf16(scale) * 127 < greatest) ++scale;  // up, or the greatest would not fit
      row_scales[b] = scale;
      if (scale == 0) continue;
      const float inverse = 1 / from_bf16(scale);
      for (int i = 0; i < kBlock; ++i) {
        const float q = std::nearbyint(std::clamp(from_bf16(from[i]) * inverse, -127.0f, 127.0f));
        row[b / 4 * 128 + i % 2 * 64 + b % 4 * 16 + i / 2] = static_cast<uint8_t>(static_cast<int>(q) + 128);
      }
    }
  }
}

Matmul::Matmul(Isa isa, Precision precision, ThreadPool& pool)
    : kernels_(&kernels_for(isa)), precision_(precision), pool_(&pool) {}

void Matmul::linear(const Linear& layer, const float* x, int tokens, float* y, bool add) {
  const bool int8 = precision_ == Precision::balanced && layer.int8.values != nullptr;
  const ManyKernels* many = int8 && kernels_->many_int8 ? kernels_->many_int8 : kernels_->many_bf16;
  if (tokens <= kFewTokens || many == nullptr) {
    for (int t = 0; t < tokens; t += kFewTokens) {
      const int count = std::min(kFewTokens, tokens - t);
      linear_few(layer, x + static_cast<size_t>(t) * layer.cols, count, y + static_cast<size_t>(t) * layer.rows, add);
    }
    return;
  }
  linear_many(layer, x, tokens, y, add);
}

size_t Matmul::column_bytes(bool exact, int cols) const {
  return exact ? cols * sizeof(float) : kernels_->int8_bytes(cols);
}

// Packs rows of x one after the other, column_bytes each, as the kernels for a few tokens want them.
void Matmul::pack_rows(bool exact, const float* x, int count, int cols, int offset, Buffer<uint8_t>& out) {
  const size_t bytes = column_bytes(exact, cols);
  out.reserve(bytes * count);
  const auto one = [&](int i) {
    const float* row = x + static_cast<size_t>(i) * cols;
    exact ? kernels_->pack_exact(row, cols, part(out, bytes, i))
          : kernels_->pack_int8(row, cols, offset, part(out, bytes, i));
  };
  if (count <= 4) {  // cheaper than waking anyone
    for (int i = 0; i < count; ++i) one(i);
  } else {
    pool_->run(count, [&](int i, int) { one(i); });
  }
}

// Rows of a few-token task, where `passes` matrices of that many rows are read: many, for every task starts with a wait
// for memory, but at least eight tasks a thread.
int Matmul::task_rows(int rows, int passes) const {
  const int share = rows * passes / (8 * pool_->size());
  return std::clamp(share / kLeastRows * kLeastRows, kLeastRows, kMostRows);
}

void Matmul::linear_few(const Linear& layer, const float* x, int tokens, float* y, bool add) {
  const bool int8 = precision_ == Precision::balanced && layer.int8.values != nullptr;
  pack_rows(!int8, x, tokens, layer.cols, kInt8Offset, packed_);
  const size_t bytes = column_bytes(!int8, layer.cols);
  const void* columns[kFewTokens];
  for (int t = 0; t < tokens; ++t) columns[t] = part(packed_, bytes, t);

  const int each = task_rows(layer.rows, 1);
  pool_->run((layer.rows + each - 1) / each, [&](int task, int) {
    const int first = task * each, count = std::min(each, layer.rows - first);
    float out[kFewTokens * kMostRows];
    if (int8) {
      const Rows rows = {layer.int8.values + Int8Weight::value_bytes(first, layer.cols),
                         layer.int8.scales + Int8Weight::scale_count(first, layer.cols), count, layer.cols, 0};
      kernels_->int8_int8(rows, columns, tokens, out, kMostRows);
    } else {
      const Rows rows = {layer.weight + static_cast<size_t>(first) * layer.cols, nullptr, count, layer.cols, 0};
      kernels_->bf16_exact(rows, columns, tokens, out, kMostRows);
    }
    for (int t = 0; t < tokens; ++t) {
      float* to = y + static_cast<size_t>(t) * layer.rows + first;
      for (int r = 0; r < count; ++r) {
        to[r] = (add ? to[r] : 0.0f) + out[t * kMostRows + r] + (layer.bias ? layer.bias[first + r] : 0.0f);
      }
    }
  });
}

void Matmul::linear_many(const Linear& layer, const float* x, int tokens, float* y, bool add) {
  const bool int8 = precision_ == Precision::balanced && kernels_->many_int8 && layer.int8.values != nullptr;
  const ManyKernels& many = int8 ? *kernels_->many_int8 : *kernels_->many_bf16;
  const int panel = many.panel_rows;
  for (int begin = 0; begin < tokens; begin += kManyTokens) {
    const int count = std::min(kManyTokens, tokens - begin), tile = many.token_tile;
    const int tiles = (count + tile - 1) / tile, padded = tiles * tile;
    packed_.reserve(many.packed_bytes(padded, layer.cols));
    pool_->run(tiles, [&](int index, int) {
      const float* rows[64];
      for (int t = 0; t < tile; ++t) {
        const int token = index * tile + t;
        rows[t] = token < count ? x + static_cast<size_t>(begin + token) * layer.cols : nullptr;
      }
      many.pack(rows, index, layer.cols, packed_.data());
    });

    // Two panels a task, so that the second is unpacked while the first is multiplied.
    const int task_rows = 2 * panel;
    const size_t out_bytes = round_up(static_cast<size_t>(task_rows) * padded * sizeof(float), 64);
    const size_t bytes = out_bytes + round_up(many.scratch_bytes(layer.cols), 64);
    scratch_.reserve(bytes * pool_->size());
    pool_->run((layer.rows + task_rows - 1) / task_rows, [&](int task, int thread) {
      const int first = task * task_rows, rows = std::min(task_rows, layer.rows - first);
      auto* out = reinterpret_cast<float*>(part(scratch_, bytes, thread));
      const Rows w = int8 ? Rows{layer.int8.values + Int8Weight::value_bytes(first, layer.cols),
                                 layer.int8.scales + Int8Weight::scale_count(first, layer.cols), rows, layer.cols, 0}
                          : Rows{layer.weight + static_cast<size_t>(first) * layer.cols, nullptr, rows, layer.cols, 0};
      many.multiply(w, packed_.data(), padded, out, part(scratch_, bytes, thread) + out_bytes);
      float* to[kManyTokens];
      for (int t = 0; t < count; ++t) to[t] = y + static_cast<size_t>(begin + t) * layer.rows + first;
      many.store(out, rows, padded, count, layer.bias ? layer.bias + first : nullptr, add, to);
    });
  }
}

void Matmul::exact_rows(const Linear& layer, const float* x, const int32_t* ids, int count, float* y) {
  packed_.reserve(layer.cols * sizeof(float));
  kernels_->pack_exact(x, layer.cols, packed_.data());
  const void* column = packed_.data();
  pool_->run((count + kLeastRows - 1) / kLeastRows, [&](int task, int) {
    const int end = std::min(count, (task + 1) * kLeastRows);
    for (int i = task * kLeastRows; i < end; ++i) {
      const Rows row = {layer.weight + static_cast<size_t>(ids[i]) * layer.cols, nullptr, 1, layer.cols, 0};
      kernels_->bf16_exact(row, &column, 1, y + i, 1);
    }
  });
}

void Matmul::group_by_expert(const Experts& layer, int tokens, const int32_t* picked, const float* weights) {
  first_.assign(layer.count + 1, 0);
  for (int i = 0; i < tokens * layer.active; ++i) ++first_[picked[i] + 1];
  used_.clear();
  for (int e = 0; e < layer.count; ++e) {
    if (first_[e + 1] > 0) used_.push_back(e);
    first_[e + 1] += first_[e];
  }
  slots_.resize(static_cast<size_t>(tokens) * layer.active);
  std::vector<int> next(first_.begin(), first_.end() - 1);
  for (int i = 0; i < tokens * layer.active; ++i) slots_[next[picked[i]]++] = {i / layer.active, weights[i]};
}

void Matmul::experts(const Experts& layer, const float* x, int tokens, const int32_t* picked, const float* weights,
                     float* y) {
  const ManyKernels* many = precision_ == Precision::balanced && kernels_->many_mxfp4_int8 ? kernels_->many_mxfp4_int8
                                                                                            : kernels_->many_mxfp4;
  group_by_expert(layer, tokens, picked, weights);
  const size_t each = precision_ == Precision::exact ? kFewEachExact : kFewEach;
  const bool few = tokens <= kFewTokens || slots_.size() <= each * used_.size();
  few || many == nullptr ? experts_few(layer, x, tokens, y) : experts_many(layer, x, tokens, y);
}

// Two passes over the rows of the experts in use, with all tokens that picked an expert, kFewTokens at a time.
void Matmul::experts_few(const Experts& layer, const float* x, int tokens, float* y) {
  const ExpertMatrix &mlp1 = layer.mlp1, &mlp2 = layer.mlp2;
  const bool exact = precision_ == Precision::exact;
  const FewKernel product = exact ? kernels_->mxfp4_exact : kernels_->mxfp4_int8;
  const int inner_size = mlp2.cols, slots = static_cast<int>(slots_.size());
  const size_t x_bytes = column_bytes(exact, mlp1.cols), inner_bytes = column_bytes(exact, inner_size);

  pack_rows(exact, x, tokens, mlp1.cols, kMxfp4Offset, packed_);
  inner_.reserve(static_cast<size_t>(slots) * inner_size);
  const int each1 = task_rows(mlp1.rows, static_cast<int>(used_.size())), tasks1 = (mlp1.rows + each1 - 1) / each1;
  pool_->run(tasks1 * static_cast<int>(used_.size()), [&](int task, int) {
    const int expert = used_[task / tasks1], first = task % tasks1 * each1;
    const int rows = std::min(each1, mlp1.rows - first);
    for (int begin = first_[expert]; begin < first_[expert + 1]; begin += kFewTokens) {
      const int count = std::min(kFewTokens, first_[expert + 1] - begin);
      const void* columns[kFewTokens];
      for (int i = 0; i < count; ++i) columns[i] = part(packed_, x_bytes, slots_[begin + i].token);
      float out[kFewTokens * kMostRows];
      product(rows_of(mlp1, expert, first, rows, layer.scale_bias), columns, count, out, kMostRows);
      for (int i = 0; i < count; ++i) {
        kernels_->swiglu_row(out + i * kMostRows, bias_of(mlp1, expert) + first, rows / 2, layer.limit,
                             inner_.data() + static_cast<size_t>(begin + i) * inner_size + first / 2);
      }
    }
  });

  pack_rows(exact, inner_.data(), slots, inner_size, kMxfp4Offset, packed_inner_);

  // A task owns its rows of y, and adds the experts in their order: the same sum whatever else is computed.
  const int each2 = task_rows(mlp2.rows, 1);
  pool_->run((mlp2.rows + each2 - 1) / each2, [&](int task, int) {
    const int first = task * each2, rows = std::min(each2, mlp2.rows - first);
    for (const int expert : used_) {
      const uint16_t* bias = bias_of(mlp2, expert) + first;
      for (int begin = first_[expert]; begin < first_[expert + 1]; begin += kFewTokens) {
        const int count = std::min(kFewTokens, first_[expert + 1] - begin);
        const void* columns[kFewTokens];
        for (int i = 0; i < count; ++i) columns[i] = part(packed_inner_, inner_bytes, begin + i);
        float out[kFewTokens * kMostRows];
        product(rows_of(mlp2, expert, first, rows, layer.scale_bias), columns, count, out, kMostRows);
        for (int i = 0; i < count; ++i) {
          const Slot& slot = slots_[begin + i];
          float* to = y + static_cast<size_t>(slot.token) * mlp2.rows + first;
          for (int r = 0; r < rows; ++r) to[r] += slot.weight * (out[i * kMostRows + r] + from_bf16(bias[r]));
        }
      }
    }
  });
}

// Expert by expert, at most kManyTokens of its tokens at a time, cut into tasks of some panels.
void Matmul::experts_many(const Experts& layer, const float* x, int tokens, float* y) {
  const ManyKernels& many = precision_ == Precision::balanced && kernels_->many_mxfp4_int8 ? *kernels_->many_mxfp4_int8
                                                                                            : *kernels_->many_mxfp4;
  const ExpertMatrix &mlp1 = layer.mlp1, &mlp2 = layer.mlp2;
  const int tile = many.token_tile, panel = many.panel_rows;

  struct Piece {
    int expert, begin, count, tile;  // slots [begin, begin + count), packed from this tile on
  };
  std::vector<Piece> pieces;
  int tiles = 0;
  for (const int expert : used_) {
    for (int begin = first_[expert]; begin < first_[expert + 1]; begin += kManyTokens) {
      const int count = std::min(kManyTokens, first_[expert + 1] - begin);
      pieces.push_back({expert, begin, count, tiles});
      tiles += (count + tile - 1) / tile;
    }
  }
  const auto padded = [&](const Piece& piece) { return static_cast<int>(round_up(piece.count, tile)); };

  packed_.reserve(many.packed_bytes(tiles * tile, mlp1.cols));
  packed_inner_.reserve(many.packed_bytes(tiles * tile, mlp2.cols));
  outer_.reserve(slots_.size() * mlp2.rows);
  std::vector<int> piece_of(tiles);
  for (size_t i = 0; i < pieces.size(); ++i) {
    for (int t = 0; t < padded(pieces[i]) / tile; ++t) piece_of[pieces[i].tile + t] = static_cast<int>(i);
  }
  pool_->run(tiles, [&](int index, int) {
    const Piece& piece = pieces[piece_of[index]];
    const float* rows[64];
    for (int t = 0; t < tile; ++t) {
      const int at = (index - piece.tile) * tile + t;
      rows[t] = at < piece.count ? x + static_cast<size_t>(slots_[piece.begin + at].token) * mlp1.cols : nullptr;
    }
    many.pack(rows, index, mlp1.cols, packed_.data());
  });

  // A task: some panels of one expert's rows, for all tokens of one piece.
  const int task_rows = 8 * panel;
  const int widest = std::min(kManyTokens, static_cast<int>(round_up(tokens, tile)));
  const size_t out_bytes = round_up(static_cast<size_t>(task_rows) * widest * sizeof(float), 64);
  const size_t bytes = 2 * out_bytes + round_up(many.scratch_bytes(std::max(mlp1.cols, mlp2.cols)), 64);
  scratch_.reserve(bytes * pool_->size());
  const auto packed_tile = [&](Buffer<uint8_t>& buffer, const Piece& piece, int cols) {
    return buffer.data() + many.packed_bytes(piece.tile * tile, cols);
  };

  const int tasks1 = (mlp1.rows + task_rows - 1) / task_rows;
  pool_->run(tasks1 * static_cast<int>(pieces.size()), [&](int task, int thread) {
    const Piece& piece = pieces[task / tasks1];
    const int first = task % tasks1 * task_rows, rows = std::min(task_rows, mlp1.rows - first), columns = padded(piece);
    uint8_t* scratch = part(scratch_, bytes, thread);
    auto *out = reinterpret_cast<float*>(scratch), *active = reinterpret_cast<float*>(scratch + out_bytes);
    many.multiply(rows_of(mlp1, piece.expert, first, rows, layer.scale_bias), packed_tile(packed_, piece, mlp1.cols),
                  columns, out, scratch + 2 * out_bytes);
    many.swiglu(out, bias_of(mlp1, piece.expert) + first, rows, columns, layer.limit, active);
    many.pack_inner(active, rows, first / 2, columns, mlp2.cols, packed_tile(packed_inner_, piece, mlp2.cols));
  });

  const int tasks2 = (mlp2.rows + task_rows - 1) / task_rows;
  pool_->run(tasks2 * static_cast<int>(pieces.size()), [&](int task, int thread) {
    const Piece& piece = pieces[task / tasks2];
    const int first = task % tasks2 * task_rows, rows = std::min(task_rows, mlp2.rows - first), columns = padded(piece);
    uint8_t* scratch = part(scratch_, bytes, thread);
    auto* out = reinterpret_cast<float*>(scratch);
    many.multiply(rows_of(mlp2, piece.expert, first, rows, layer.scale_bias),
                  packed_tile(packed_inner_, piece, mlp2.cols), columns, out, scratch + 2 * out_bytes);
    float* to[kManyTokens];
    for (int t = 0; t < piece.count; ++t) to[t] = outer_.data() + static_cast<size_t>(piece.begin + t) * mlp2.rows + first;
    float bias[8 * 64];
    for (int r = 0; r < rows; ++r) bias[r] = from_bf16(bias_of(mlp2, piece.expert)[first + r]);
    many.store(out, rows, columns, piece.count, bias, false, to);
  });

  // Each token's experts in their order.
  std::vector<int> slot_of(slots_.size()), filled(tokens, 0);
  for (size_t slot = 0; slot < slots_.size(); ++slot) {
    const int token = slots_[slot].token;
    slot_of[static_cast<size_t>(token) * layer.active + filled[token]++] = static_cast<int>(slot);
  }
  pool_->run(tokens, [&](int token, int) {
    float* to = y + static_cast<size_t>(token) * mlp2.rows;
    for (int i = 0; i < layer.active; ++i) {
      const int slot = slot_of[static_cast<size_t>(token) * layer.active + i];
      const float* from = outer_.data() + static_cast<size_t>(slot) * mlp2.rows;
      for (int r = 0; r < mlp2.rows; ++r) to[r] += slots_[slot].weight * from[r];
    }
  });
}

}  // namespace gpt_oss

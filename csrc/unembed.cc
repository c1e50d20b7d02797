#include "unembed.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "bf16.h"
#include "noise.h"

namespace gpt_oss {
namespace {

constexpr int kTaskRows = 256;   // of the screen: 0.75 MB of int8 for 20b
constexpr int kStates = 8;         // screened at once: two columns each, which is all that a kernel takes
constexpr double kTiny = 1e-30;  // more than all that underflow can cost

float rounded_up(double x) { return std::nextafter(static_cast<float>(x), std::numeric_limits<float>::infinity()); }

// A token that may win: it cannot total more than `upper`.
struct Candidate {
  int id;
  double upper;
};

// What one thread has found: its candidates, and the greatest of their lower bounds.
struct alignas(64) Finds {
  double best = -std::numeric_limits<double>::infinity();
  std::vector<Candidate> candidates;
};

}  // namespace

void row_norms(const uint16_t* weight, int begin, int end, int cols, RowNorms* norms) {
  std::vector<uint8_t> values(Int8Weight::value_bytes(1, cols));
  std::vector<uint16_t> scales(Int8Weight::scale_count(1, cols));
  for (int r = begin; r < end; ++r) {
    const uint16_t* row = weight + static_cast<size_t>(r) * cols;
    quantise_int8(row, 0, 1, cols, values.data(), scales.data());
    double error = 0, whole = 0;
    for (int i = 0; i < cols; ++i) {
      const double w = from_bf16(row[i]);
      const int q = values[i / 128 * 128 + i % 2 * 64 + i % 128 / kBlock * 16 + i % kBlock / 2] - 128;
      const double e = w - static_cast<double>(from_bf16(scales[i / kBlock])) * q;
      error += e * e;
      whole += w * w;
    }
    norms[r] = {rounded_up(std::sqrt(error)), rounded_up(std::sqrt(whole))};
  }
}

// Packs x for the kernels and finds how far a screened logit may be off.
//
// x is first rounded to bf16, as exact precision does, then written as coarse + fine + rest, two int8 vectors and what
// they miss. With a row w, its int8 form q, n = cols, eps = 2^-24:
//   w x - q (coarse + fine) = (w - q) x + q rest                    at most  |w - q| |x| + (|w| + |w - q|) |rest|
//   the exact kernel rounds n products and sums                     at most  2 n eps |w| |x|
//   the int8 kernel sums integers exactly within a block,           at most  4 (n / 32 + 16) eps |w| s, twice
//   then rounds a sum and three factors of each block
// where s^2 is the sum over blocks of (sum of |x| in it)^2: the integers of a block weigh at most (|q| + 2 * 128) |x|,
// |q| <= 127, times the block's scale; and 127 scales have at most the norm 1.01 |w|.
void Unembedding::pack(const float* x, State& state) const {
  const Kernels& kernels = matmul_->kernels();
  const int cols = layer_.cols;
  state.x = x;
  state.logits = nullptr;
  kernels.pack_exact(x, cols, state.exact.reserve(cols));

  std::vector<double> rest(cols);
  double norm = 0;
  for (int i = 0; i < cols; ++i) {
    rest[i] = from_bf16(to_bf16(x[i]));
    norm += rest[i] * rest[i];
  }
  norm = std::sqrt(norm);
  state.slack = {};
  state.screens = norms_ != nullptr && std::isfinite(norm);
  if (!state.screens) return;

  const double eps = 0x1p-24;
  state.slack = {norm, 2.0 * cols * eps * norm};
  std::vector<double> packed(cols);
  for (Buffer<uint8_t>* part : {&state.coarse, &state.fine}) {
    // Too small for the reciprocal that packing takes: left to the rest.
    std::vector<float> packable(cols);
    for (int i = 0; i < cols; ++i) packable[i] = std::fabs(rest[i]) < 1e-25 ? 0.0f : static_cast<float>(rest[i]);
    kernels.pack_int8(packable.data(), cols, kInt8Offset, part->reserve(kernels.int8_bytes(cols)));
    kernels.unpack_int8(part->data(), cols, packed.data());
    double blocks = 0;
    for (int b = 0; b < cols; b += kBlock) {
      double sum = 0;
      for (int i = b; i < b + kBlock; ++i) {
        rest[i] -= packed[i];
        sum += std::fabs(packed[i]);
      }
      blocks += sum * sum;
    }
    state.slack.weight += 4 * (cols / kBlock + 16) * eps * std::sqrt(blocks);
  }
  double missed = 0;
  for (const double v : rest) missed += v * v;
  missed = std::sqrt(missed);
  state.slack.error += missed;
  state.slack.weight += missed;
}

// Logits of rows [first, first + count), count <= kTaskRows, for n <= kStates states that are alike in `screens`, each
// within error_of(state, row) of exact_rows'. out [n][stride].
void Unembedding::products(const State* states, int n, int first, int count, float* out, size_t stride) const {
  const int cols = layer_.cols;
  const void* columns[2 * kStates];
  if (!states->screens) {
    for (int i = 0; i < n; ++i) columns[i] = states[i].exact.data();
    const Rows rows = {layer_.weight + static_cast<size_t>(first) * cols, nullptr, count, cols, 0};
    matmul_->kernels().bf16_exact(rows, columns, n, out, stride);
    return;
  }
  for (int i = 0; i < n; ++i) {
    columns[2 * i] = states[i].coarse.data();
    columns[2 * i + 1] = states[i].fine.data();
  }
  float parts[2 * kStates][kTaskRows];
  const Rows rows = {layer_.int8.values + Int8Weight::value_bytes(first, cols),
                     layer_.int8.scales + Int8Weight::scale_count(first, cols), count, cols, 0};
  matmul_->kernels().int8_int8(rows, columns, 2 * n, parts[0], kTaskRows);
  for (int i = 0; i < n; ++i) {
    for (int r = 0; r < count; ++r) out[i * stride + r] = parts[2 * i][r] + parts[2 * i + 1][r];
  }
}

double Unembedding::error_of(const State& state, int row) const {
  return state.screens ? state.slack.error * norms_[row].error + state.slack.weight * norms_[row].weight + kTiny : 0;
}

int Unembedding::sample(const float* x, double temperature, uint64_t seed, int64_t position) {
  pack(x, single_);
  return draw(single_, temperature, seed, position);
}

int Unembedding::sample_screened(int row, double temperature, uint64_t seed, int64_t position) {
  return draw(states_[row], temperature, seed, position);
}

void Unembedding::screen(const float* x, int rows) {
  if (states_.size() < static_cast<size_t>(rows)) states_.resize(rows);
  for (int i = 0; i < rows; ++i) pack(x + static_cast<size_t>(i) * layer_.cols, states_[i]);
  logits_.reserve(static_cast<size_t>(rows) * usable_);
  for (int begin = 0, end; begin < rows; begin = end) {
    for (end = begin + 1; end < rows && end - begin < kStates && states_[end].screens == states_[begin].screens;) ++end;
    matmul_->pool().run((usable_ + kTaskRows - 1) / kTaskRows, [&](int task, int) {
      const int first = task * kTaskRows, count = std::min(kTaskRows, usable_ - first);
      products(&states_[begin], end - begin, first, count, logits_.data() + static_cast<size_t>(begin) * usable_ + first,
               usable_);
    });
  }
  for (int i = 0; i < rows; ++i) states_[i].logits = logits_.data() + static_cast<size_t>(i) * usable_;
}

int Unembedding::draw(const State& state, double temperature, uint64_t seed, int64_t position) {
  const Gumbel noise(seed, position);
  const bool draws = temperature != 0;
  const double divisor = draws ? temperature : 1;

  std::vector<Finds> threads(matmul_->pool().size());
  matmul_->pool().run((usable_ + kTaskRows - 1) / kTaskRows, [&](int task, int thread) {
    Finds& found = threads[thread];
    const int first = task * kTaskRows, count = std::min(kTaskRows, usable_ - first);
    float computed[kTaskRows];
    if (state.logits == nullptr) products(&state, 1, first, count, computed, kTaskRows);
    const float* logits = state.logits == nullptr ? computed : state.logits + first;
    for (int r = 0; r < count; ++r) {
      const int id = first + r;
      const double logit = logits[r], error = error_of(state, id);
      // A hundred times what rounding in float64 can do to a total.
      const double margin = 1e-13 * ((std::fabs(logit) + error) / divisor + 64);
      const double upper = (logit + error) / divisor + margin;
      // Written so that whatever is not a number stays in the race.
      if (upper + (draws ? noise.bound(id) : 0) < found.best) continue;
      const double exact_noise = draws ? noise(id) : 0;
      if (upper + exact_noise < found.best) continue;
      found.candidates.push_back({id, upper + exact_noise});
      found.best = std::max(found.best, (logit - error) / divisor - margin + exact_noise);
    }
  });

  // Whoever found what, these are all rows whose upper bound reaches the greatest lower bound of all rows.
  double best = -std::numeric_limits<double>::infinity();
  for (const Finds& found : threads) best = std::max(best, found.best);
  std::vector<int32_t> ids;
  for (const Finds& found : threads) {
    for (const Candidate& candidate : found.candidates) {
      if (!(candidate.upper < best)) ids.push_back(candidate.id);
    }
  }
  std::sort(ids.begin(), ids.end());

  std::vector<float> logits(ids.size());
  matmul_->exact_rows(layer_, state.x, ids.data(), static_cast<int>(ids.size()), logits.data());
  int winner = ids.front();
  double greatest = -std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < ids.size(); ++i) {
    const double total = logits[i] / divisor + (draws ? noise(ids[i]) : 0);
    if (total > greatest) {
      greatest = total;
      winner = ids[i];
    }
  }
  return winner;
}

void Unembedding::bounds(const float* x, float* approximate, double* errors) {
  pack(x, single_);
  for (int first = 0; first < usable_; first += kTaskRows) {
    products(&single_, 1, first, std::min(kTaskRows, usable_ - first), approximate + first, kTaskRows);
  }
  for (int r = 0; r < usable_; ++r) errors[r] = error_of(single_, r);
}

}  // namespace gpt_oss

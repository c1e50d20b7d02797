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
constexpr double kTiny = 1e-30;  // more than all that underflow can cost

float rounded_up(double x) { return std::nextafter(static_cast<float>(x), std::numeric_limits<float>::infinity()); }

// The value at x's place i of a block, which Int8Group and Int8Weight keep in the same order.
size_t place(int column) { return column / kBlock % 4 * 16 + column % kBlock / 2; }

double value(const Int8Group* groups, int column) {
  const Int8Group& group = groups[column / 128];
  const size_t at = place(column);
  return static_cast<double>(group.scale[at / 4]) * (column % 2 == 0 ? group.even : group.odd)[at];
}

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
      const int q = values[i / 128 * 128 + i % 2 * 64 + place(i)] - 128;
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
void Unembedding::pack(const float* x) {
  const Kernels& kernels = matmul_->kernels();
  const int cols = layer_.cols;
  kernels.pack_float(x, cols, exact_.reserve(cols));

  std::vector<double> rest(cols);
  double norm = 0;
  for (int i = 0; i < cols; ++i) {
    rest[i] = from_bf16(to_bf16(x[i]));
    norm += rest[i] * rest[i];
  }
  norm = std::sqrt(norm);
  slack_ = {};
  screens_ = norms_ != nullptr && std::isfinite(norm);
  if (!screens_) return;

  const double eps = 0x1p-24;
  slack_ = {norm, 2.0 * cols * eps * norm};
  for (Buffer<Int8Group>* part : {&coarse_, &fine_}) {
    // Too small for the reciprocal that packing takes: left to the rest.
    std::vector<float> packable(cols);
    for (int i = 0; i < cols; ++i) packable[i] = std::fabs(rest[i]) < 1e-25 ? 0.0f : static_cast<float>(rest[i]);
    kernels.pack_int8(packable.data(), cols, kInt8Offset, part->reserve(groups(cols)));
    double blocks = 0;
    for (int b = 0; b < cols; b += kBlock) {
      double sum = 0;
      for (int i = b; i < b + kBlock; ++i) {
        const double v = value(part->data(), i);
        rest[i] -= v;
        sum += std::fabs(v);
      }
      blocks += sum * sum;
    }
    slack_.weight += 4 * (cols / kBlock + 16) * eps * std::sqrt(blocks);
  }
  double missed = 0;
  for (const double v : rest) missed += v * v;
  missed = std::sqrt(missed);
  slack_.error += missed;
  slack_.weight += missed;
}

// Logits of rows [first, first + count), count <= kTaskRows, each within error_of(row) of exact_rows'.
void Unembedding::product(int first, int count, float* out) const {
  const int cols = layer_.cols;
  if (!screens_) {
    const void* column = exact_.data();
    const Rows rows = {layer_.weight + static_cast<size_t>(first) * cols, nullptr, count, cols, 0};
    matmul_->kernels().bf16_float(rows, &column, 1, out, kTaskRows);
    return;
  }
  const void* columns[] = {coarse_.data(), fine_.data()};
  float parts[2][kTaskRows];
  const Rows rows = {layer_.int8.values + Int8Weight::value_bytes(first, cols),
                     layer_.int8.scales + Int8Weight::scale_count(first, cols), count, cols, 0};
  matmul_->kernels().int8_int8(rows, columns, 2, parts[0], kTaskRows);
  for (int r = 0; r < count; ++r) out[r] = parts[0][r] + parts[1][r];
}

double Unembedding::error_of(int row) const {
  return screens_ ? slack_.error * norms_[row].error + slack_.weight * norms_[row].weight + kTiny : 0;
}

int Unembedding::sample(const float* x, double temperature, uint64_t seed, int64_t position) {
  pack(x);
  const Gumbel noise(seed, position);
  const bool draws = temperature != 0;
  const double divisor = draws ? temperature : 1;

  std::vector<Finds> threads(matmul_->pool().size());
  matmul_->pool().run((usable_ + kTaskRows - 1) / kTaskRows, [&](int task, int thread) {
    Finds& found = threads[thread];
    const int first = task * kTaskRows, count = std::min(kTaskRows, usable_ - first);
    float logits[kTaskRows];
    product(first, count, logits);
    for (int r = 0; r < count; ++r) {
      const int id = first + r;
      const double logit = logits[r], error = error_of(id);
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
  matmul_->exact_rows(layer_, x, ids.data(), static_cast<int>(ids.size()), logits.data());
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
  pack(x);
  for (int first = 0; first < usable_; first += kTaskRows) {
    product(first, std::min(kTaskRows, usable_ - first), approximate + first);
  }
  for (int r = 0; r < usable_; ++r) errors[r] = error_of(r);
}

}  // namespace gpt_oss

// Compares the matrix kernels of every instruction set that this machine has with the plain ones, over odd shapes, and
// one thread with two. The Python tests do more; this is for machines without Python, such as csrc/neon.sh emulates.
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "bf16.h"
#include "isa.h"
#include "matmul.h"
#include "pool.h"

namespace gpt_oss {
namespace {

struct Random {
  uint64_t state = 88172645463325252ull;

  uint32_t bits() {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return static_cast<uint32_t>(state >> 16);
  }

  float uniform() { return static_cast<float>(bits() % 20001) * 1e-4f - 1; }

  template <class T>
  std::vector<T> fill(size_t n, T (*make)(Random&)) {
    std::vector<T> values(n);
    for (T& v : values) v = make(*this);
    return values;
  }
};

float any_float(Random& random) { return random.uniform(); }
uint16_t any_bf16(Random& random) { return to_bf16(random.uniform()); }
uint8_t any_byte(Random& random) { return static_cast<uint8_t>(random.bits()); }
uint8_t any_scale(Random& random) { return static_cast<uint8_t>(118 + random.bits() % 6); }

int failures = 0;

void compare(const std::string& what, const std::vector<float>& expected, const std::vector<float>& one,
             const std::vector<float>& two) {
  double error = 0, size = 0;
  for (size_t i = 0; i < one.size(); ++i) {
    error += std::pow(one[i] - expected[i], 2);
    size += std::pow(expected[i], 2);
  }
  // int8 activations between the two products of an expert may round the other way: 1/254 of some of them.
  error = std::sqrt(error / size);
  if (!(error < 2e-3)) std::printf("%s: error %g\n", what.c_str(), error), ++failures;
  if (one != two) std::printf("%s: one thread and two differ\n", what.c_str()), ++failures;
}

const char* name_of(Precision precision) { return precision == Precision::exact ? "exact" : "balanced"; }

void check_linear(Isa isa, Precision precision, int rows, int cols, int tokens, ThreadPool& one, ThreadPool& two) {
  Random random;
  const auto weight = random.fill<uint16_t>(static_cast<size_t>(rows) * cols, any_bf16);
  const auto x = random.fill<float>(static_cast<size_t>(tokens) * cols, any_float);
  const auto bias = random.fill<float>(rows, any_float);
  std::vector<uint8_t> values(Int8Weight::value_bytes(rows, cols));
  std::vector<uint16_t> scales(Int8Weight::scale_count(rows, cols));
  quantise_int8(weight.data(), 0, rows, cols, values.data(), scales.data());
  const Linear layer = {rows, cols, weight.data(), {values.data(), scales.data()}, bias.data()};
  const auto run = [&](Isa with, ThreadPool& pool) {
    std::vector<float> y(static_cast<size_t>(tokens) * rows);
    Matmul(with, precision, pool).linear(layer, x.data(), tokens, y.data());
    return y;
  };
  compare(std::string(isa_name(isa)) + " linear " + name_of(precision) + " " + std::to_string(rows) + " x " +
              std::to_string(cols) + " x " + std::to_string(tokens),
          run(Isa::plain, one), run(isa, one), run(isa, two));
}

void check_experts(Isa isa, Precision precision, int hidden, int inner, int tokens, ThreadPool& one, ThreadPool& two) {
  constexpr int kCount = 3, kActive = 2;
  Random random;
  const size_t size = static_cast<size_t>(hidden) * inner;
  const auto blocks = random.fill<uint8_t>(kCount * size * 3 / 2, any_byte);
  const auto scales = random.fill<uint8_t>(kCount * size * 3 / kBlock, any_scale);
  const auto bias = random.fill<uint16_t>(static_cast<size_t>(kCount) * 2 * (hidden + inner), any_bf16);
  const auto x = random.fill<float>(static_cast<size_t>(tokens) * hidden, any_float);
  const auto matrix = [&](size_t first, int rows, int cols) {
    const size_t each = static_cast<size_t>(rows) * cols;
    return ExpertMatrix{blocks.data() + kCount * first / 2, scales.data() + kCount * first / kBlock, bias.data(),
                        each / 2, each / kBlock, static_cast<size_t>(rows) * 2, rows, cols};
  };
  Experts layer;
  layer.count = kCount;
  layer.active = kActive;
  layer.mlp1 = matrix(0, 2 * inner, hidden);
  layer.mlp2 = matrix(2 * size, hidden, inner);
  std::vector<int32_t> picked;
  for (int t = 0; t < tokens; ++t) {
    const int first = static_cast<int>(random.bits() % kCount);
    picked.insert(picked.end(), {first, (first + 1) % kCount});
  }
  const std::vector<float> shares(picked.size(), 0.5f);
  const auto run = [&](Isa with, ThreadPool& pool) {
    std::vector<float> y(static_cast<size_t>(tokens) * hidden);
    Matmul(with, precision, pool).experts(layer, x.data(), tokens, picked.data(), shares.data(), y.data());
    return y;
  };
  compare(std::string(isa_name(isa)) + " experts " + name_of(precision) + " " + std::to_string(hidden) + " x " +
              std::to_string(inner) + " x " + std::to_string(tokens),
          run(Isa::plain, one), run(isa, one), run(isa, two));
}

}  // namespace
}  // namespace gpt_oss

int main() {
  using namespace gpt_oss;
  ThreadPool one(1), two(2);
  for (const Isa isa : available_isas()) {
    for (const Precision precision : {Precision::exact, Precision::balanced}) {
      for (const int tokens : {1, 2, 3, 7, 8, 9, 16, 17, 18, 23, 40}) {
        for (const int cols : {32, 96, 160, 576}) check_linear(isa, precision, 17 + cols / 3, cols, tokens, one, two);
        check_linear(isa, precision, 1, 64, tokens, one, two);
        check_experts(isa, precision, 32, 32, tokens, one, two);
        check_experts(isa, precision, 96, 160, tokens, one, two);
        check_experts(isa, precision, 544, 96, tokens, one, two);
      }
    }
    std::printf("%s checked\n", isa_name(isa));
  }
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}

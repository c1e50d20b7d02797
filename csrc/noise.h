// The randomness of sampling: gpt_oss/engine/noise.py, which says what it is, in C++.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <numbers>

namespace gpt_oss {

class Gumbel {
 public:
  Gumbel(uint64_t seed, int64_t position) : key_(mix(seed + kGolden * (static_cast<uint64_t>(position) + 1))) {}

  double operator()(int token) const {
    return -std::log(-std::log((static_cast<double>(bits(token) >> 12) + 0.5) * 0x1p-52));
  }

  // At least the noise, for a fraction of its price. With r = 1 - u: -log(u) >= r, so the noise is at most -log(r); and
  // a double's bits read as an integer are its base-2 logarithm, at most 0.0861 too low. Noise of 3 and more, which is
  // what wins, is off by less than 0.09.
  double bound(int token) const {
    const double rest = (static_cast<double>(~bits(token) >> 12) + 0.5) * 0x1p-52;
    const double log2 = static_cast<double>(std::bit_cast<int64_t>(rest)) * 0x1p-52 - 1023;
    return 1e-9 - log2 * std::numbers::ln2;
  }

 private:
  static constexpr uint64_t kGolden = 0x9E3779B97F4A7C15;

  static uint64_t mix(uint64_t z) {
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    return z ^ z >> 31;
  }

  uint64_t bits(int token) const { return mix(key_ + kGolden * (static_cast<uint64_t>(token) + 1)); }

  uint64_t key_;
};

}  // namespace gpt_oss

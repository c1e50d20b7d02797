// Attention over one span as plain loops, a column at a time: what the other kernels are tested against, and what runs
// on a machine that has none of their instructions.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "../attention.h"

namespace gpt_oss {
namespace {

float widen(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

void span(const SpanArgs& a) {
  const auto* queries = static_cast<const float*>(a.queries);
  const int keys = a.blocks * kBlockTokens;
  float* scores = a.scratch;  // [keys], of one column
  for (int c = 0; c < a.columns; ++c) {
    float greatest = kNothing;
    for (int j = 0; j < keys; ++j) {
      const int position = a.first_key + j, last = a.positions[c];
      const bool visible = position <= last && (a.window == 0 || position > last - a.window);
      const uint16_t* key = a.cache[j / kBlockTokens] + j % kBlockTokens * a.head_dim;
      float score = 0;
      for (int d = 0; d < a.head_dim; ++d) score += queries[d * kColumns + c] * widen(key[d]);
      scores[j] = visible ? score : -INFINITY;
      greatest = std::max(greatest, scores[j]);
    }
    float sum = 0;
    for (int j = 0; j < keys; ++j) {
      scores[j] = std::exp2(scores[j] - greatest);
      sum += scores[j];
    }
    a.max[c] = greatest;
    a.sum[c] = sum;
    for (int d = 0; d < a.head_dim; ++d) {
      float out = 0;
      for (int j = 0; j < keys; ++j) {
        const uint16_t* values = a.cache[j / kBlockTokens] + kBlockTokens * a.head_dim;
        out += scores[j] * widen(values[d * kBlockTokens + j % kBlockTokens]);
      }
      a.out[d * kColumns + c] = out;
    }
  }
}

void merge(float* into, const float* from, int columns, int head_dim) {
  for (int c = 0; c < columns; ++c) {
    const float greatest = std::max(into[c], from[c]);
    const float keep = std::exp2(into[c] - greatest), add = std::exp2(from[c] - greatest);
    into[c] = greatest;
    for (int i = 1; i < head_dim + 2; ++i) {
      into[i * kColumns + c] = into[i * kColumns + c] * keep + from[i * kColumns + c] * add;
    }
  }
}

uint16_t narrow(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

void expand(const uint8_t* from, int head_dim, uint16_t* to) {
  const int values = kBlockTokens * head_dim;
  const auto* integers = reinterpret_cast<const int8_t*>(from);
  const auto* scales = reinterpret_cast<const float*>(from + 2 * values);
  for (int i = 0; i < values; ++i) {
    to[i] = narrow(integers[i] * scales[i / head_dim]);
    to[values + i] = narrow(integers[values + i] * scales[kBlockTokens + i % kBlockTokens]);
  }
}

}  // namespace

extern const AttentionKernel kAttention_plain{"plain", QueryLayout::kFloat, 1, span, merge, expand};

}  // namespace gpt_oss

// The small steps and attention as Python functions on numpy arrays, for the tests of each by itself.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "attention.h"
#include "bindings.h"
#include "ops.h"

namespace nb = nanobind;

namespace gpt_oss {
namespace {

template <class T, size_t kDimensions>
using Array = nb::ndarray<T, nb::ndim<kDimensions>, nb::c_contig, nb::device::cpu>;

void check(bool ok, const char* message) {
  if (!ok) throw nb::value_error(message);
}

void bind_rmsnorm(Array<const float, 2> x, Array<const float, 1> scale, float eps, Array<float, 2> out) {
  check(x.shape(1) == scale.shape(0) && out.shape(0) == x.shape(0) && out.shape(1) == x.shape(1), "shapes differ");
  const int hidden = x.shape(1);
  for (size_t i = 0; i < x.shape(0); ++i) {
    rmsnorm(x.data() + i * hidden, scale.data(), hidden, eps, out.data() + i * hidden);
  }
}

void bind_rotate(Array<float, 3> x, Array<const int32_t, 1> positions, double theta, double scaling_factor,
                 double ntk_alpha, double ntk_beta, int initial_context_length) {
  const int heads = x.shape(1), head_dim = x.shape(2);
  check(positions.shape(0) == x.shape(0) && head_dim % 2 == 0, "one position a row and an even head_dim");
  const Rotary rotary({head_dim, initial_context_length, theta, scaling_factor, ntk_alpha, ntk_beta});
  std::vector<float> angles(head_dim);
  for (size_t i = 0; i < x.shape(0); ++i) {
    rotary.angles(positions.data()[i], angles.data());
    rotary.rotate(angles.data(), heads, x.data() + i * heads * head_dim);
  }
}

void bind_route(Array<const float, 2> x, Array<const uint16_t, 2> gate, Array<const float, 1> bias,
                Array<int32_t, 2> picked, Array<float, 2> weights) {
  const int hidden = x.shape(1), experts = gate.shape(0), k = picked.shape(1);
  check(gate.shape(1) == x.shape(1) && bias.shape(0) == gate.shape(0) && picked.shape(0) == x.shape(0) &&
            weights.shape(0) == x.shape(0) && weights.shape(1) == picked.shape(1) && k <= experts,
        "shapes differ");
  std::vector<float> logits(experts);
  for (size_t i = 0; i < x.shape(0); ++i) {
    route(x.data() + i * hidden, gate.data(), bias.data(), hidden, experts, k, logits.data(), picked.data() + i * k,
          weights.data() + i * k);
  }
}

// One layer's attention: writes the new keys and values into `cache`, then attends.
std::string bind_attention(Array<const float, 2> qkv, const std::vector<std::tuple<int, int, std::vector<int32_t>>>& batch,
                           Array<uint8_t, 2> cache, Array<const float, 1> sinks, int kv_heads, int head_dim, int window,
                           const std::string& isa, int threads, Array<float, 2> out, const std::string& kv) {
  const AttentionShape shape{static_cast<int>(sinks.shape(0)), kv_heads, head_dim, parse_kv(kv)};
  check(shape.heads % kv_heads == 0 && head_dim % 8 == 0, "heads must be a multiple of kv_heads, head_dim of 8");
  check(cache.shape(1) == shape.block_bytes() && static_cast<int>(qkv.shape(1)) == shape.qkv_width() &&
            static_cast<int>(out.shape(1)) == shape.heads * head_dim && out.shape(0) == qkv.shape(0),
        "shapes differ");
  std::vector<Sequence> sequences;
  size_t rows = 0;
  for (const auto& [position, tokens, blocks] : batch) {
    check(position >= 0 && tokens > 0 &&
              blocks.size() == static_cast<size_t>(position + tokens + kBlockTokens - 1) / kBlockTokens,
          "a sequence's blocks must cover its positions");
    for (size_t i = window == 0 ? 0 : std::max(0, position - window + 1) / kBlockTokens; i < blocks.size(); ++i) {
      check(blocks[i] >= 0 && static_cast<size_t>(blocks[i]) < cache.shape(0), "a block is outside the cache");
    }
    sequences.push_back({position, tokens, blocks.data()});
    rows += tokens;
  }
  check(rows == qkv.shape(0), "qkv has a row for each token");
  ThreadPool pool(threads);
  Attention attention(shape, parse_isa(isa), pool);
  attention.write_cache(qkv.data(), sequences, cache.data());
  attention.attend({qkv.data(), sequences, cache.data(), sinks.data(), window, out.data()});
  return attention.kernel_name();
}

}  // namespace

void bind_ops(nb::module_& m) {
  m.attr("BLOCK_TOKENS") = kBlockTokens;
  m.def("rmsnorm", &bind_rmsnorm);
  m.def("rotate", &bind_rotate);
  m.def("route", &bind_route);
  m.def("attention", &bind_attention);
}

}  // namespace gpt_oss

// The Python class _native.Model: checks every argument, keeps the weights' arrays alive, and runs without the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <memory>
#include <mutex>
#include <string>

#include "bindings.h"
#include "model.h"

namespace nb = nanobind;

namespace gpt_oss {
namespace {

template <class T>
using Vector = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Matrix = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

template <size_t kDimensions>
using Expert8 = nb::ndarray<const uint8_t, nb::ndim<kDimensions>, nb::device::cpu>;
using ExpertBias = nb::ndarray<const uint16_t, nb::ndim<2>, nb::device::cpu>;

using ChunkArgs = std::tuple<Vector<const int32_t>, int64_t, Vector<const int32_t>, Vector<const int32_t>, int64_t>;

template <class... Parts>
void check(bool ok, const Parts&... parts) {
  if (ok) return;
  std::string message;
  const auto add = [&message](const auto& part) {
    if constexpr (std::is_arithmetic_v<std::decay_t<decltype(part)>>) {
      message += std::to_string(part);
    } else {
      message += part;
    }
  };
  (add(parts), ...);
  throw nb::value_error(message.c_str());
}

void check_blocks(const Vector<const int32_t>& blocks, int64_t begin, int64_t end, int limit, const char* pool) {
  check(static_cast<int64_t>(blocks.shape(0)) == end, "a chunk that needs ", end, " ", pool, " blocks has ",
        blocks.shape(0));
  for (int64_t i = begin; i < end; ++i) {
    const int32_t block = blocks.data()[i];
    check(block >= 0 && block < limit, pool, " block ", i, " is ", block, ", and the pool has 0 to ", limit - 1);
  }
}

}  // namespace

// bf16 weights, and their int8 form, which is empty in exact precision.
struct LinearArgs {
  Matrix<const uint16_t> weight;
  Vector<const uint8_t> int8_values;
  Vector<const uint16_t> int8_scales;
};

// See gpt_oss/backends/cpu/model.py for what the methods mean, and weights.py for where the arrays come from.
class PyModel {
 public:
  PyModel(nb::object config, const std::string& isa, const std::string& precision, const std::string& kv, int threads,
          int cache_blocks, int window_cache_blocks, bool read_ahead)
      : shape_(shape_of(config, parse_kv(kv))),
        max_context_(nb::cast<int>(config.attr("max_context"))),
        cache_blocks_(cache_blocks),
        window_cache_blocks_(window_cache_blocks),
        isa_(parse_isa(isa)),
        precision_(precision == "exact" ? Precision::exact : Precision::balanced),
        read_ahead_(read_ahead),
        pool_(threads) {
    const AttentionShape& a = shape_.attention;
    check(a.kv_heads > 0 && a.heads % a.kv_heads == 0, "num_attention_heads must be a multiple of num_key_value_heads");
    check(a.head_dim % 8 == 0, "head_dim must be a multiple of 8");
    check(shape_.hidden % kBlock == 0 && shape_.intermediate % kBlock == 0 && a.heads * a.head_dim % kBlock == 0,
          "hidden_size, intermediate_size and num_attention_heads * head_dim must be multiples of 32");
    check(shape_.experts_per_token >= 1 && shape_.experts_per_token <= shape_.experts,
          "experts_per_token must be from 1 to num_experts");
  }

  int cache_blocks() const { return cache_blocks_; }
  int window_cache_blocks() const { return window_cache_blocks_; }

  int forward(const std::vector<ChunkArgs>& batch) {
    std::vector<Chunk> chunks;
    check(model_ != nullptr, "the model has no weights yet");
    for (const ChunkArgs& args : batch) chunks.push_back(checked(args));
    nb::gil_scoped_release unlocked;
    model_->forward(chunks);
    return model_->rows();
  }

  void logits(Matrix<float> out) {
    check(model_ != nullptr && static_cast<int>(out.shape(0)) == model_->rows() &&
              static_cast<int>(out.shape(1)) == shape_.vocab,
          "logits are [rows][vocab_size] of the last forward");
    nb::gil_scoped_release unlocked;
    model_->logits(out.data());
  }

  int sample(int row, double temperature, uint64_t seed, int64_t position) {
    check(model_ != nullptr && row >= 0 && row < model_->rows(), "row ", row, " is not one of the last forward's");
    check(temperature >= 0 && position >= 0, "temperature and position must not be negative");
    nb::gil_scoped_release unlocked;
    return model_->sample(row, temperature, seed, position);
  }

  void add_layer(Vector<const float> attention_norm, const LinearArgs& qkv, Vector<const float> qkv_bias,
                 Vector<const float> sinks, const LinearArgs& out, Vector<const float> out_bias,
                 Vector<const float> mlp_norm, Matrix<const uint16_t> gate, Vector<const float> gate_bias,
                 Expert8<4> mlp1_blocks, Expert8<3> mlp1_scales, ExpertBias mlp1_bias, Expert8<4> mlp2_blocks,
                 Expert8<3> mlp2_scales, ExpertBias mlp2_bias, int scale_bias) {
    const AttentionShape& a = shape_.attention;
    const int hidden = shape_.hidden, heads_width = a.heads * a.head_dim;
    check(!model_ && static_cast<int>(weights_.layers.size()) < shape_.layers, "there are no more layers");
    check_size(attention_norm, hidden, "attention norm");
    check_size(sinks, a.heads, "sinks");
    check_size(mlp_norm, hidden, "mlp norm");
    check(static_cast<int>(gate.shape(0)) == shape_.experts && static_cast<int>(gate.shape(1)) == hidden, "gate's shape is wrong");
    check_size(gate_bias, shape_.experts, "gate bias");
    LayerWeights layer{attention_norm.data(), linear(qkv, &qkv_bias, a.qkv_width(), hidden), sinks.data(),
                       linear(out, &out_bias, hidden, heads_width), mlp_norm.data(), gate.data(), gate_bias.data(), {}};
    layer.experts.count = shape_.experts;
    layer.experts.active = shape_.experts_per_token;
    layer.experts.scale_bias = scale_bias;
    layer.experts.limit = shape_.swiglu_limit;
    layer.experts.mlp1 = expert_matrix(mlp1_blocks, mlp1_scales, mlp1_bias, 2 * shape_.intermediate, hidden);
    layer.experts.mlp2 = expert_matrix(mlp2_blocks, mlp2_scales, mlp2_bias, hidden, shape_.intermediate);
    weights_.layers.push_back(layer);
    keep(attention_norm, qkv_bias, sinks, out_bias, mlp_norm, gate, gate_bias, mlp1_blocks, mlp1_scales, mlp1_bias,
         mlp2_blocks, mlp2_scales, mlp2_bias);
  }

  // After all layers: the model is ready.
  void finish(Matrix<const uint16_t> embedding, Vector<const float> norm, const LinearArgs& unembedding,
              Matrix<const float> unembedding_norms) {
    check(static_cast<int>(weights_.layers.size()) == shape_.layers, "a layer is missing");
    check(static_cast<int>(embedding.shape(0)) == shape_.vocab && static_cast<int>(embedding.shape(1)) == shape_.hidden,
          "embedding's shape is wrong");
    check_size(norm, shape_.hidden, "norm");
    weights_.embedding = embedding.data();
    weights_.norm = norm.data();
    weights_.unembedding = linear(unembedding, nullptr, shape_.vocab, shape_.hidden);
    check(unembedding_norms.shape(1) == 2, "unembedding_norms are pairs");
    if (unembedding_norms.shape(0) != 0) {
      check_size(unembedding_norms, shape_.vocab, "unembedding_norms");
      weights_.unembedding_norms = reinterpret_cast<const RowNorms*>(unembedding_norms.data());
    }
    keep(embedding, norm, unembedding_norms);
    model_ = std::make_unique<Model>(shape_, weights_, isa_, precision_, pool_, cache_blocks_,
                                     window_cache_blocks_, read_ahead_);
  }

  std::string attention_kernel() const { return model_ ? model_->attention_kernel() : ""; }

  // Bytes of one block in all layers of a kind.
  size_t block_bytes(bool windowed) const {
    size_t layers = 0;
    for (int i = 0; i < shape_.layers; ++i) layers += shape_.is_windowed(i) == windowed;
    return layers * shape_.attention.block_bytes();
  }

  void read_cache(Vector<const int32_t> blocks, Vector<const int32_t> window_blocks, Vector<uint8_t> data) {
    copy_cache(blocks, window_blocks, data.shape(0), [&, at = data.data()](uint8_t* block, size_t bytes) mutable {
      std::memcpy(at, block, bytes);
      at += bytes;
    });
  }

  void write_cache(Vector<const int32_t> blocks, Vector<const int32_t> window_blocks, Vector<const uint8_t> data) {
    copy_cache(blocks, window_blocks, data.shape(0), [&, at = data.data()](uint8_t* block, size_t bytes) mutable {
      std::memcpy(block, at, bytes);
      at += bytes;
    });
  }

 private:
  static ModelShape shape_of(nb::object config, KvType kv) {
    const auto integer = [&](const char* name) { return nb::cast<int>(config.attr(name)); };
    const auto real = [&](const char* name) { return nb::cast<double>(config.attr(name)); };
    return {.layers = integer("num_hidden_layers"),
            .experts = integer("num_experts"),
            .experts_per_token = integer("experts_per_token"),
            .vocab = integer("vocab_size"),
            .usable_vocab = integer("usable_vocab_size"),
            .hidden = integer("hidden_size"),
            .intermediate = integer("intermediate_size"),
            .attention = {integer("num_attention_heads"), integer("num_key_value_heads"), integer("head_dim"), kv},
            .sliding_window = integer("sliding_window"),
            .swiglu_limit = static_cast<float>(real("swiglu_limit")),
            .norm_eps = static_cast<float>(real("rms_norm_eps")),
            .rotary = {integer("head_dim"), integer("initial_context_length"), real("rope_theta"),
                       real("rope_scaling_factor"), real("rope_ntk_alpha"), real("rope_ntk_beta")}};
  }

  template <class Array>
  static void check_size(const Array& array, int size, const char* name) {
    check(static_cast<int>(array.shape(0)) == size, name, " has ", array.shape(0), " values, not ", size);
  }

  // The arrays must outlive the model.
  template <class... Arrays>
  void keep(const Arrays&... arrays) {
    (alive_.push_back(nb::cast(arrays)), ...);
  }

  Linear linear(const LinearArgs& args, const Vector<const float>* bias, int rows, int cols) {
    check(static_cast<int>(args.weight.shape(0)) == rows && static_cast<int>(args.weight.shape(1)) == cols,
          "a weight is not [", rows, "][", cols, "]");
    if (bias != nullptr) check_size(*bias, rows, "a bias");
    Linear layer{rows, cols, args.weight.data(), {}, bias ? bias->data() : nullptr};
    if (precision_ == Precision::balanced) {
      check(args.int8_values.shape(0) == Int8Weight::value_bytes(rows, cols) &&
                args.int8_scales.shape(0) == Int8Weight::scale_count(rows, cols),
            "an int8 weight has the wrong size");
      layer.int8 = {args.int8_values.data(), args.int8_scales.data()};
      keep(args.int8_values, args.int8_scales);
    }
    keep(args.weight);
    return layer;
  }

  static ExpertMatrix expert_matrix(const Expert8<4>& blocks, const Expert8<3>& scales, const ExpertBias& bias, int rows,
                                    int cols) {
    const auto is = [](const auto& array, std::initializer_list<int> shape) {
      size_t axis = 0;
      int64_t stride = 1;
      bool good = true;
      for (const int size : shape) good &= static_cast<int>(array.shape(axis++)) == size;
      for (size_t i = shape.size(); i-- > 1; stride *= array.shape(i)) good &= array.stride(i) == stride;
      return good && array.stride(0) >= stride;
    };
    const int experts = static_cast<int>(blocks.shape(0));
    check(is(blocks, {experts, rows, cols / kBlock, 16}) && is(scales, {experts, rows, cols / kBlock}) &&
              is(bias, {experts, rows}),
          "an expert matrix is not [", experts, "][", rows, "][", cols, "]");
    return {blocks.data(), scales.data(), bias.data(), static_cast<size_t>(blocks.stride(0)),
            static_cast<size_t>(scales.stride(0)), static_cast<size_t>(bias.stride(0)) * sizeof(uint16_t), rows, cols};
  }

  Chunk checked(const ChunkArgs& args) const {
    const auto& [tokens, position, blocks, window_blocks, logits] = args;
    const int64_t count = tokens.shape(0), end = position + count;
    check(count >= 1, "a chunk must have a token");
    check(position >= 0 && end <= max_context_, "positions ", position, " to ", end - 1,
          " do not fit the model's context of ", max_context_, " tokens");
    check(logits >= 0 && logits <= count, "a chunk of ", count, " tokens cannot have ", logits, " rows of logits");
    for (int64_t i = 0; i < count; ++i) {
      const int32_t token = tokens.data()[i];
      check(token >= 0 && token < shape_.vocab, "token ", token, " is outside the vocabulary of ", shape_.vocab);
    }
    const int64_t needed = (end + kBlockTokens - 1) / kBlockTokens;
    const int64_t first_seen = std::max<int64_t>(0, position - shape_.sliding_window + 1) / kBlockTokens;
    check_blocks(blocks, 0, needed, cache_blocks_, "cache");
    check_blocks(window_blocks, first_seen, needed, window_cache_blocks_, "window cache");
    return {tokens.data(), static_cast<int>(count), static_cast<int>(position), blocks.data(), window_blocks.data(),
            static_cast<int>(logits)};
  }

  // Calls copy(block, bytes) for every layer of each block, those of the full layers first.
  template <class Copy>
  void copy_cache(const Vector<const int32_t>& blocks, const Vector<const int32_t>& window_blocks, size_t bytes, Copy copy) {
    check_blocks(blocks, 0, blocks.shape(0), cache_blocks_, "cache");
    check_blocks(window_blocks, 0, window_blocks.shape(0), window_cache_blocks_, "window cache");
    check(bytes == blocks.shape(0) * block_bytes(false) + window_blocks.shape(0) * block_bytes(true),
          "the data's size is not that of the blocks");
    nb::gil_scoped_release unlocked;
    const size_t block_bytes = shape_.attention.block_bytes();
    for (const bool windowed : {false, true}) {
      const auto& wanted = windowed ? window_blocks : blocks;
      for (size_t i = 0; i < wanted.shape(0); ++i) {
        for (int layer = 0; layer < shape_.layers; ++layer) {
          if (shape_.is_windowed(layer) != windowed) continue;
          copy(model_->cache(layer) + wanted.data()[i] * block_bytes, block_bytes);
        }
      }
    }
  }

  ModelShape shape_;
  int max_context_, cache_blocks_, window_cache_blocks_;
  Isa isa_;
  Precision precision_;
  bool read_ahead_;
  ThreadPool pool_;
  ModelWeights weights_ = {};
  std::vector<nb::object> alive_;
  std::unique_ptr<Model> model_;
};

void bind_model(nb::module_& m) {
  nb::class_<LinearArgs>(m, "Linear")
      .def(nb::init<Matrix<const uint16_t>, Vector<const uint8_t>, Vector<const uint16_t>>());
  nb::class_<PyModel>(m, "Model")
      .def(nb::init<nb::object, const std::string&, const std::string&, const std::string&, int, int, int, bool>(),
           nb::arg("config"), nb::arg("isa"), nb::arg("precision"), nb::arg("kv"), nb::arg("threads"),
           nb::arg("cache_blocks"), nb::arg("window_cache_blocks"), nb::arg("read_ahead"))
      .def("add_layer", &PyModel::add_layer, nb::arg("attention_norm"), nb::arg("qkv"), nb::arg("qkv_bias"),
           nb::arg("sinks"), nb::arg("out"), nb::arg("out_bias"), nb::arg("mlp_norm"), nb::arg("gate"),
           nb::arg("gate_bias"), nb::arg("mlp1_blocks"), nb::arg("mlp1_scales"), nb::arg("mlp1_bias"),
           nb::arg("mlp2_blocks"), nb::arg("mlp2_scales"), nb::arg("mlp2_bias"), nb::arg("scale_bias"))
      .def("finish", &PyModel::finish, nb::arg("embedding"), nb::arg("norm"), nb::arg("unembedding"),
           nb::arg("unembedding_norms"))
      .def("forward", &PyModel::forward)
      .def("logits", &PyModel::logits)
      .def("sample", &PyModel::sample, nb::arg("row"), nb::arg("temperature"), nb::arg("seed"), nb::arg("position"))
      .def("block_bytes", &PyModel::block_bytes)
      .def("read_cache", &PyModel::read_cache)
      .def("write_cache", &PyModel::write_cache)
      .def_prop_ro("attention_kernel", &PyModel::attention_kernel)
      .def_prop_ro("cache_blocks", &PyModel::cache_blocks)
      .def_prop_ro("window_cache_blocks", &PyModel::window_cache_blocks);
}

}  // namespace gpt_oss

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

// See gpt_oss/backends/cpu/model.py for what the methods mean.
class PyModel {
 public:
  PyModel(const ModelShape& shape, int max_context, Isa isa, int threads, int cache_blocks, int window_cache_blocks)
      : shape_(shape),
        max_context_(max_context),
        cache_blocks_(cache_blocks),
        window_cache_blocks_(window_cache_blocks),
        isa_(isa),
        pool_(threads) {}

  int cache_blocks() const { return cache_blocks_; }
  int window_cache_blocks() const { return window_cache_blocks_; }

  int forward(const std::vector<ChunkArgs>& batch) {
    std::vector<Chunk> chunks;
    for (const ChunkArgs& args : batch) chunks.push_back(checked(args));
    nb::gil_scoped_release unlocked;
    model_->forward(chunks);
    return model_->rows();
  }

  // Bytes of one block in all layers of a kind.
  size_t block_bytes(bool windowed) const {
    size_t layers = 0;
    for (int i = 0; i < shape_.layers; ++i) layers += shape_.is_windowed(i) == windowed;
    return layers * shape_.attention.block_elements() * sizeof(uint16_t);
  }

  void read_cache(Vector<const int32_t> blocks, Vector<const int32_t> window_blocks, Vector<uint8_t> data) {
    copy_cache(blocks, window_blocks, data.shape(0), [&, at = data.data()](uint16_t* block, size_t bytes) mutable {
      std::memcpy(at, block, bytes);
      at += bytes;
    });
  }

  void write_cache(Vector<const int32_t> blocks, Vector<const int32_t> window_blocks, Vector<const uint8_t> data) {
    copy_cache(blocks, window_blocks, data.shape(0), [&, at = data.data()](uint16_t* block, size_t bytes) mutable {
      std::memcpy(block, at, bytes);
      at += bytes;
    });
  }

 private:
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
    const size_t elements = shape_.attention.block_elements();
    for (const bool windowed : {false, true}) {
      const auto& wanted = windowed ? window_blocks : blocks;
      for (size_t i = 0; i < wanted.shape(0); ++i) {
        for (int layer = 0; layer < shape_.layers; ++layer) {
          if (shape_.is_windowed(layer) != windowed) continue;
          copy(model_->cache(layer) + wanted.data()[i] * elements, elements * sizeof(uint16_t));
        }
      }
    }
  }

  ModelShape shape_;
  int max_context_, cache_blocks_, window_cache_blocks_;
  Isa isa_;
  ThreadPool pool_;
  ModelWeights weights_;
  std::unique_ptr<Model> model_;
};

}  // namespace gpt_oss

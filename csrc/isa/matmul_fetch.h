// Fetching weights from memory while others are multiplied. Included by kernels for many tokens, each its own copy.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace gpt_oss {
namespace {

// Fetches a rectangle of a matrix, spread over `calls`: its rows lie far apart, which no hardware follows.
class Fetch {
 public:
  // `rows` rows of `bytes` each, row_bytes from one to the next; no rows, nothing to do.
  Fetch(const uint8_t* first, size_t row_bytes, int rows, size_t bytes, int calls)
      : at_(first),
        row_bytes_(row_bytes),
        lines_(static_cast<int>((bytes + 63) / 64)),
        rows_(std::max(rows, 0)),
        each_((lines_ * rows_ + calls - 1) / calls) {}

  void operator()() {
    for (int i = 0; i < each_ && rows_ > 0; ++i) {
      __builtin_prefetch(at_ + line_ * 64, 0, 2);
      if (++line_ == lines_) line_ = 0, --rows_, at_ += row_bytes_;
    }
  }

 private:
  const uint8_t* at_;
  size_t row_bytes_;
  int lines_, rows_, each_, line_ = 0;
};

}  // namespace
}  // namespace gpt_oss

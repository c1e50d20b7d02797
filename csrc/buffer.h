// Memory with one owner, freed with it: Buffer from the heap, Pages from the system.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <utility>

#include "system.h"

namespace gpt_oss {

// Room for n values, aligned to a cache line, not initialised.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t n) : size_(n) {
    const size_t bytes = (n * sizeof(T) + 63) / 64 * 64;
    data_.reset(static_cast<T*>(allocate_lines(bytes == 0 ? 64 : bytes)));
    if (!data_) throw std::bad_alloc();
  }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  size_t size() const { return size_; }

  // Makes room for n values; what was in it is lost.
  T* reserve(size_t n) {
    if (n > size_) *this = Buffer(n);
    return data();
  }

 private:
  struct Free {
    void operator()(T* p) const { free_lines(p); }
  };
  std::unique_ptr<T[], Free> data_;
  size_t size_ = 0;
};

// Zeroed memory of whole pages that takes up none until it is written to.
template <class T>
class Pages {
 public:
  explicit Pages(size_t n) : bytes_(std::max<size_t>(1, n * sizeof(T))) {
    data_ = static_cast<T*>(allocate_pages(bytes_));
    if (data_ == nullptr) throw std::bad_alloc();
  }
  Pages(Pages&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  Pages& operator=(Pages&&) = delete;
  ~Pages() {
    if (data_ != nullptr) free_pages(data_, bytes_);
  }

  T* data() { return data_; }

 private:
  T* data_;
  size_t bytes_;
};

}  // namespace gpt_oss

#include "pool.h"

#include <chrono>

#include "portable.h"
#if defined(GPT_OSS_X86_64)
#include <immintrin.h>
#endif

namespace gpt_oss {
namespace {

// Spinning covers the gaps between the calls of one forward pass and the sampling between two; parking comes after.
constexpr auto kSpin = std::chrono::microseconds(300);

inline void relax() {
#if defined(GPT_OSS_X86_64)
  _mm_pause();
#elif defined(GPT_OSS_ARM64)
  asm volatile("yield");
#endif
}

}  // namespace

// Not pinned: on a machine of our own pinning gained nothing, and beside one other busy process it cost 2.5 times the
// time of a token, the caller and a pinned worker sharing a core (docs/lab-notes.md).
ThreadPool::ThreadPool(int threads) {
  for (int thread = 1; thread < threads; ++thread) {
    workers_.emplace_back([this, thread] { worker(thread); });
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  call_.fetch_add(1, std::memory_order_release);
  call_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run_raw(int tasks, Function function, void* context) {
  if (workers_.empty() || tasks <= 1) {
    for (int task = 0; task < tasks; ++task) function(context, task, 0);
    return;
  }
  function_ = function;
  context_ = context;
  tasks_ = tasks;
  next_.store(0, std::memory_order_relaxed);
  busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  call_.fetch_add(1, std::memory_order_release);
  call_.notify_all();
  take_tasks(0);
  for (int spins = 0; busy_.load(std::memory_order_acquire) != 0; ++spins) {
    relax();
    if (spins > 20000) std::this_thread::yield();  // more threads than cores: let the others run
  }
}

void ThreadPool::take_tasks(int thread) {
  for (int task; (task = next_.fetch_add(1, std::memory_order_relaxed)) < tasks_;) function_(context_, task, thread);
}

void ThreadPool::worker(int thread) {
  for (uint32_t seen = 0;;) {
    const auto parked_at = std::chrono::steady_clock::now() + kSpin;
    for (int spins = 0; call_.load(std::memory_order_acquire) == seen; ++spins) {
      relax();
      if (spins % 64 == 63 && std::chrono::steady_clock::now() > parked_at) call_.wait(seen, std::memory_order_acquire);
    }
    seen = call_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_relaxed)) return;
    take_tasks(thread);
    busy_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace gpt_oss

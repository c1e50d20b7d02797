#include "pool.h"

#include <algorithm>
#include <chrono>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace gpt_oss {
namespace {

// Spinning covers the gaps between the calls of one forward pass and the sampling between two; parking comes after.
constexpr auto kSpin = std::chrono::microseconds(300);

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

std::vector<int> usable_cores() {
  std::vector<int> cores;
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    for (int core = 0; core < CPU_SETSIZE; ++core) {
      if (CPU_ISSET(core, &set)) cores.push_back(core);
    }
  }
#endif
  return cores;
}

void pin(int core) {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  pthread_setaffinity_np(pthread_self(), sizeof(set), &set);  // a refusal costs speed only
#else
  (void)core;
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  const std::vector<int> cores = usable_cores();
  for (int thread = 1; thread < threads; ++thread) {
    // The caller is Python's thread and stays free to move; workers take the cores from the last one down.
    const int core = static_cast<int>(cores.size()) >= threads ? cores[cores.size() - thread] : -1;
    workers_.emplace_back([this, thread, core] { worker(thread, core); });
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

void ThreadPool::worker(int thread, int core) {
  if (core >= 0) pin(core);
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

// A small thread pool: workers spin for a moment after each call, then park, so that the hundred short calls of one
// decoded token cost about a microsecond each, and an idle process costs nothing.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

namespace gpt_oss {

class ThreadPool {
 public:
  // `threads` counts the caller.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls f(task, thread) once for every task in [0, tasks), tasks handed out in order to whichever thread is free
  // (0 is the caller), and returns when all are done. Not reentrant; one caller at a time.
  template <class F>
  void run(int tasks, F&& f) {
    run_raw(
        tasks, [](void* context, int task, int thread) { (*static_cast<std::remove_reference_t<F>*>(context))(task, thread); },
        const_cast<void*>(static_cast<const void*>(&f)));
  }

 private:
  using Function = void (*)(void* context, int task, int thread);

  void run_raw(int tasks, Function function, void* context);
  void take_tasks(int thread);
  void worker(int thread);

  std::vector<std::thread> workers_;
  Function function_ = nullptr;
  void* context_ = nullptr;
  int tasks_ = 0;
  alignas(64) std::atomic<int> next_{0};
  alignas(64) std::atomic<int> busy_{0};        // workers still at the current call
  alignas(64) std::atomic<uint32_t> call_{0};   // grows with every call; the lowest bit of stop_ ends the workers
  std::atomic<bool> stop_{false};
};

}  // namespace gpt_oss

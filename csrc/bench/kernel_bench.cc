// Times the matrix kernels on one expert layer and one attention projection of gpt-oss-20b, beside what the same machine
// reads and computes at best, probed in the same process:
//
//   cmake -S . -B build/bench -G Ninja -DGPT_OSS_BENCH=ON && cmake --build build/bench --target kernel_bench
//   build/bench/kernel_bench [threads] [isa,isa…] [tokens,tokens…]
//
// A few tokens are judged by the bytes of weights they must read, many by their operations. Every figure is the best of
// some short runs, since machines are shared. Weights are random; decoding walks through 1 GiB of them, so that no cache
// holds what it reads.
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>
#include <vector>

#include "isa.h"
#include "kernels.h"
#include "matmul.h"
#include "pool.h"
#include "probe.h"

namespace gpt_oss {
namespace {

constexpr int kHidden = 2880, kExperts = 32, kActive = 4, kQkvRows = 5120;
constexpr size_t kArenaBytes = size_t{1} << 30;

// One thread is timed by its own clock, which stands still while others have the core.
bool use_thread_clock = false;

double now() {
  timespec t;
  clock_gettime(use_thread_clock ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

template <class F>
double best_seconds(int runs, F f) {
  double best = 1e9;
  for (int i = 0; i < runs; ++i) {
    const double start = now();
    f(i);
    best = std::min(best, now() - start);
  }
  return best;
}

struct Random {
  uint64_t state = 88172645463325252ull;
  uint64_t operator()() {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
  }
};

// Random 16-bit words that are small numbers as bfloat16, any as MXFP4 and int8.
uint8_t* make_arena() {
  void* p = mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) std::abort();
  madvise(p, kArenaBytes, MADV_HUGEPAGE);
  Random random;
  auto* words = static_cast<uint64_t*>(p);
  for (size_t i = 0; i < kArenaBytes / 8; ++i) words[i] = (random() & 0x8fff8fff8fff8fff) | 0x3000300030003000;
  return static_cast<uint8_t*>(p);
}

double read_bandwidth(ThreadPool& pool, const uint8_t* arena) {
  const size_t share = kArenaBytes / 2 / pool.size(), half = share / 2;
  const double seconds = best_seconds(6, [&](int run) {
    pool.run(pool.size(), [&](int task, int) {
      // Two streams a core, each fetched ahead.
      const auto* a = reinterpret_cast<const uint64_t*>(arena + run % 2 * (kArenaBytes / 2) + task * share);
      const auto* b = a + half / 8;
      uint64_t sums[8] = {};
      for (size_t i = 0; i < half / 8; i += 8) {
        __builtin_prefetch(a + i + 256);
        __builtin_prefetch(b + i + 256);
        for (int j = 0; j < 8; ++j) sums[j] += a[i + j] ^ b[i + j];
      }
      for (const uint64_t sum : sums) asm volatile("" : : "r"(sum));  // or nothing would be read
    });
  });
  return static_cast<double>(share) * pool.size() / seconds;
}

double peak(ThreadPool& pool, double (*probe)()) {
  std::vector<double> operations(pool.size());
  const double seconds =
      best_seconds(8, [&](int) { pool.run(pool.size(), [&](int task, int) { operations[task] = probe(); }); });
  double sum = 0;
  for (const double o : operations) sum += o;
  return sum / seconds;
}

// The ceiling that a kernel of this instruction set and precision is held against.
double (*probe_of(Isa isa, Precision precision))() {
  [[maybe_unused]] const bool int8 = precision == Precision::balanced;
#if defined(__x86_64__)
  switch (isa) {
    case Isa::amx: return probe_amx_bf16;
    case Isa::avx512bf16: return int8 ? probe_vnni512 : probe_bf16_512;
    case Isa::avx512: return int8 ? probe_vnni512 : probe_fma512;
    case Isa::avxvnni: return int8 ? probe_vnni256 : probe_fma256;
    case Isa::avx2: return int8 ? probe_maddubs256 : probe_fma256;
    default: break;
  }
#elif defined(__aarch64__)
  switch (isa) {
    case Isa::i8mm: return int8 ? probe_smmla : probe_fma128;
    case Isa::neon: return int8 ? probe_sdot : probe_fma128;
    default: break;
  }
#endif
  return nullptr;
}

struct Bench {
  ThreadPool pool;
  uint8_t* arena = make_arena();
  double bandwidth;
  std::vector<uint8_t> scales = std::vector<uint8_t>(static_cast<size_t>(kExperts) * 2 * kHidden * kHidden / kBlock);
  std::vector<uint16_t> bias = std::vector<uint16_t>(static_cast<size_t>(kExperts) * 2 * kHidden);
  std::vector<uint16_t> int8_scales = std::vector<uint16_t>(Int8Weight::scale_count(kQkvRows, kHidden), 0x3c00);
  std::vector<float> x, y;

  explicit Bench(int threads) : pool(threads), bandwidth(read_bandwidth(pool, arena)) {
    Random random;
    for (uint8_t& s : scales) s = static_cast<uint8_t>(118 + random() % 4);
  }

  Experts experts(int start) const {
    const size_t matrix = static_cast<size_t>(kHidden) * kHidden / 2;  // bytes of mlp2; mlp1 has twice as many
    Experts layer;
    layer.count = kExperts;
    layer.active = kActive;
    const uint8_t* blocks = arena + static_cast<size_t>(start) * 3 * matrix;
    layer.mlp1 = {blocks, scales.data(), bias.data(), 3 * matrix, 2 * matrix / 16, 0, 2 * kHidden, kHidden};
    layer.mlp2 = {blocks + 2 * matrix, scales.data(), bias.data(), 3 * matrix, matrix / 16, 0, kHidden, kHidden};
    return layer;
  }

  Linear linear(int start) const {
    Linear layer;
    layer.rows = kQkvRows;
    layer.cols = kHidden;
    const uint8_t* weight = arena + static_cast<size_t>(start) * kQkvRows * kHidden * 2;
    layer.weight = reinterpret_cast<const uint16_t*>(weight);
    layer.int8 = {weight, int8_scales.data()};
    return layer;
  }

  void report(const char* what, Isa isa, Precision precision, int tokens, double seconds, double bytes, double operations,
              double ceiling) const {
    std::printf("%-10s %-8s %-7s %5d tokens %8.2f ms", isa_name(isa), precision == Precision::exact ? "exact" : "balanced",
                what, tokens, seconds * 1e3);
    if (tokens <= kFewTokens) {
      std::printf("  %6.1f GB/s  %3.0f%% of memory\n", bytes / seconds / 1e9, 100 * bytes / seconds / bandwidth);
    } else if (ceiling > 0) {
      std::printf("  %6.2f TOPS  %3.0f%% of peak\n", operations / seconds / 1e12, 100 * operations / seconds / ceiling);
    } else {
      std::printf("  %6.2f TOPS\n", operations / seconds / 1e12);
    }
    std::fflush(stdout);
  }

  void run(Isa isa, Precision precision, const std::vector<int>& counts) {
    double (*probe)() = probe_of(isa, precision);
    const double ceiling = probe ? peak(pool, probe) : 0;
    if (probe) std::printf("%-10s %-8s peak %.2f TOPS\n", isa_name(isa), precision == Precision::exact ? "exact" : "balanced", ceiling / 1e12);
    Matmul matmul(isa, precision, pool);
    Random random;
    for (const int tokens : counts) {
      const int runs = tokens <= kFewTokens ? 40 : std::clamp(2000 / tokens, 3, 15);
      x.resize(static_cast<size_t>(tokens) * kHidden);
      y.resize(static_cast<size_t>(tokens) * 2 * kHidden);
      for (float& v : x) v = static_cast<float>(random() % 2001) * 1e-3f - 1;

      // Random routing, none twice for a token; for a few tokens other weights every time.
      std::vector<int32_t> picked(static_cast<size_t>(tokens) * kActive);
      std::vector<float> shares(picked.size(), 0.25f);
      std::vector<bool> used(kExperts);
      for (int t = 0; t < tokens; ++t) {
        for (int i = 0; i < kActive; ++i) {
          int32_t* mine = picked.data() + t * kActive;
          do mine[i] = static_cast<int32_t>(random() % kExperts);
          while (std::find(mine, mine + i, mine[i]) != mine + i);
          used[mine[i]] = true;
        }
      }
      const int active = static_cast<int>(std::count(used.begin(), used.end(), true));
      double seconds = best_seconds(runs, [&](int i) {
        matmul.experts(experts(i % 8 * 6), x.data(), tokens, picked.data(), shares.data(), y.data());
      });
      const double weights = 3.0 * kHidden * kHidden;
      report("experts", isa, precision, tokens, seconds, active * weights * 17 / 32, 2 * weights * kActive * tokens, ceiling);

      seconds = best_seconds(runs, [&](int i) { matmul.linear(linear(i % 30), x.data(), tokens, y.data()); });
      const double values = static_cast<double>(kQkvRows) * kHidden;
      const double bytes = precision == Precision::exact
                               ? 2 * values
                               : static_cast<double>(Int8Weight::value_bytes(kQkvRows, kHidden) +
                                                     2 * Int8Weight::scale_count(kQkvRows, kHidden));
      report("qkv", isa, precision, tokens, seconds, bytes, 2 * values * tokens, ceiling);
    }
  }
};

std::vector<std::string> split(const char* list) {
  std::vector<std::string> parts(1);
  for (; *list != '\0'; ++list) {
    if (*list == ',') parts.emplace_back();
    else parts.back() += *list;
  }
  return parts;
}

}  // namespace
}  // namespace gpt_oss

int main(int argc, char** argv) {
  using namespace gpt_oss;
  std::vector<Isa> isas;
  for (const Isa isa : available_isas()) {
    if (isa != Isa::plain) isas.push_back(isa);
  }
  if (argc > 2) {
    isas.clear();
    for (const std::string& name : split(argv[2])) isas.push_back(parse_isa(name));
  }
  std::vector<int> counts = {1, 2, 4, 8, 128, 512, 2048};
  if (argc > 3) {
    counts.clear();
    for (const std::string& number : split(argv[3])) counts.push_back(std::max(1, std::atoi(number.c_str())));
  }
  const int threads = argc > 1 ? std::max(1, std::atoi(argv[1])) : 2;
  use_thread_clock = threads == 1;
  Bench bench(threads);
  std::printf("%d threads, memory read %.1f GB/s\n", bench.pool.size(), bench.bandwidth / 1e9);
  for (const Isa isa : isas) {
    for (const Precision precision : {Precision::balanced, Precision::exact}) bench.run(isa, precision, counts);
  }
}

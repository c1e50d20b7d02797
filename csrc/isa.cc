#include "isa.h"

#include <algorithm>
#include <stdexcept>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__linux__) && defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace gpt_oss {
namespace {

struct Name {
  Isa isa;
  const char* name;
};
constexpr Name kNames[] = {{Isa::plain, "plain"},   {Isa::avx2, "avx2"},
                           {Isa::avxvnni, "avxvnni"}, {Isa::avx512, "avx512"},
                           {Isa::avx512bf16, "avx512bf16"}, {Isa::amx, "amx"},
                           {Isa::neon, "neon"},     {Isa::i8mm, "i8mm"}};

#if defined(__x86_64__)
// CPUID leaf 7: (subleaf, register, bit) of features that the compiler's own list does not have.
bool leaf7(unsigned subleaf, int reg, int bit) {
  unsigned r[4] = {};
  if (!__get_cpuid_count(7, subleaf, &r[0], &r[1], &r[2], &r[3])) return false;
  return (r[reg] >> bit & 1) != 0;
}

// The tile registers are large, and Linux hands them out on request.
bool may_use_tiles() {
#if defined(__linux__)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

std::vector<Isa> detect() {
  std::vector<Isa> found = {Isa::plain};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) {
    found.push_back(Isa::avx2);
    if (leaf7(1, 0, 4)) found.push_back(Isa::avxvnni);
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi")) {
      found.push_back(Isa::avx512);
      if (leaf7(1, 0, 5)) {
        found.push_back(Isa::avx512bf16);
        if (leaf7(0, 3, 22) && leaf7(0, 3, 24) && leaf7(0, 3, 25) && may_use_tiles()) found.push_back(Isa::amx);
      }
    }
  }
#elif defined(__aarch64__)
#if defined(__APPLE__)
  found.push_back(Isa::neon);
#elif defined(__linux__)
  if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) {
    found.push_back(Isa::neon);
    if (getauxval(AT_HWCAP2) & HWCAP2_I8MM) found.push_back(Isa::i8mm);
  }
#endif
#endif
  std::reverse(found.begin(), found.end());
  return found;
}

}  // namespace

const char* isa_name(Isa isa) {
  for (const Name& entry : kNames) {
    if (entry.isa == isa) return entry.name;
  }
  return "?";
}

Isa parse_isa(const std::string& name) {
  for (const Name& entry : kNames) {
    if (name != entry.name) continue;
    const std::vector<Isa>& here = available_isas();
    if (std::find(here.begin(), here.end(), entry.isa) != here.end()) return entry.isa;
    throw std::invalid_argument("this machine has no " + name);
  }
  throw std::invalid_argument("there is no instruction set '" + name + "'");
}

const std::vector<Isa>& available_isas() {
  static const std::vector<Isa> found = detect();
  return found;
}

}  // namespace gpt_oss

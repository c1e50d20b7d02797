#include "isa.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>

#include "portable.h"

#if defined(GPT_OSS_AMX)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(GPT_OSS_ARM64) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif
#if defined(GPT_OSS_ARM64) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif
#if defined(GPT_OSS_X86_64)
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
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

#if defined(GPT_OSS_X86_64)
enum Register { eax, ebx, ecx, edx };

// What CPUID says, bit by bit; nothing for a leaf that the processor does not have.
class CpuId {
 public:
  explicit CpuId(uint32_t leaf, uint32_t subleaf = 0) {
    if (leaf > read(0, 0)[eax] || subleaf > (leaf == 7 ? read(7, 0)[eax] : 0)) return;
    registers_ = read(leaf, subleaf);
  }

  // Whether all of these bits are set.
  bool has(Register in, std::initializer_list<int> bits) const {
    return std::all_of(bits.begin(), bits.end(), [&](int bit) { return (registers_[in] >> bit & 1) != 0; });
  }

 private:
  using Registers = std::array<uint32_t, 4>;

  static Registers read(uint32_t leaf, uint32_t subleaf) {
    Registers r{};
#if defined(_MSC_VER)
    int as_ints[4];
    __cpuidex(as_ints, static_cast<int>(leaf), static_cast<int>(subleaf));
    for (int i = 0; i < 4; ++i) r[i] = static_cast<uint32_t>(as_ints[i]);
#else
    __cpuid_count(leaf, subleaf, r[0], r[1], r[2], r[3]);
#endif
    return r;
  }

  Registers registers_{};
};

// XCR0: the registers that the system saves when it switches threads. Only where CPUID has OSXSAVE.
uint64_t saved_registers() {
#if defined(_MSC_VER) && !defined(__clang__)
  return _xgetbv(0);
#else
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
#endif
}

// The registers and those below them.
constexpr uint64_t kYmm = 0x6;
[[maybe_unused]] constexpr uint64_t kZmm = 0xe6;

// The tile registers are large, and Linux hands them out on request.
bool may_use_tiles() {
#if defined(GPT_OSS_AMX)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

void detect(std::vector<Isa>& found) {
  const CpuId basic(1), extended(7), more(7, 1);
  constexpr int kFma = 12, kXsave = 27, kAvx = 28, kF16c = 29;           // of leaf 1
  constexpr int kAvx2 = 5, kBmi2 = 8, kF = 16, kDq = 17, kBw = 30, kVl = 31;  // of leaf 7: AVX-512 from kF on
  constexpr int kVbmi = 1, kVnni = 11;
  constexpr int kAmxBf16 = 22, kAmxTile = 24, kAmxInt8 = 25;
  constexpr int kAvxVnni = 4, kAvx512Bf16 = 5;  // of its subleaf 1
  if (!basic.has(ecx, {kFma, kXsave, kAvx, kF16c}) || !extended.has(ebx, {kAvx2, kBmi2})) return;
  const uint64_t saved = saved_registers();
  if ((saved & kYmm) != kYmm) return;
  found.push_back(Isa::avx2);
  if (more.has(eax, {kAvxVnni})) found.push_back(Isa::avxvnni);
#if defined(__APPLE__)
  const bool saves_zmm = true;  // from a thread's first use of them on; XCR0 does not show them before
#else
  const bool saves_zmm = (saved & kZmm) == kZmm;
#endif
  if (!saves_zmm || !extended.has(ebx, {kF, kDq, kBw, kVl}) || !extended.has(ecx, {kVbmi, kVnni})) return;
  found.push_back(Isa::avx512);
  if (!more.has(eax, {kAvx512Bf16})) return;
  found.push_back(Isa::avx512bf16);
  if (extended.has(edx, {kAmxBf16, kAmxTile, kAmxInt8}) && may_use_tiles()) found.push_back(Isa::amx);
}

#elif defined(GPT_OSS_ARM64) && defined(__APPLE__)

void detect(std::vector<Isa>& found) {
  found.push_back(Isa::neon);  // every Apple processor has the dot product
  int i8mm = 0, bf16 = 0;
  size_t size = sizeof i8mm;
  sysctlbyname("hw.optional.arm.FEAT_I8MM", &i8mm, &size, nullptr, 0);
  size = sizeof bf16;
  sysctlbyname("hw.optional.arm.FEAT_BF16", &bf16, &size, nullptr, 0);
  if (i8mm != 0 && bf16 != 0) found.push_back(Isa::i8mm);
}

#elif defined(GPT_OSS_ARM64) && defined(__linux__)

void detect(std::vector<Isa>& found) {
  if (!(getauxval(AT_HWCAP) & HWCAP_ASIMDDP)) return;
  found.push_back(Isa::neon);
  if (getauxval(AT_HWCAP2) & HWCAP2_I8MM) found.push_back(Isa::i8mm);
}

#else

void detect(std::vector<Isa>&) {}

#endif

std::vector<Isa> all_here() {
  std::vector<Isa> found = {Isa::plain};
  detect(found);
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
  static const std::vector<Isa> found = all_here();
  return found;
}

}  // namespace gpt_oss

#include "kernels.h"

namespace gpt_oss {
namespace {

// Kernels for a few tokens that serve a wider instruction set as well, with that one's kernels for many.
[[maybe_unused]] Kernels extended(Kernels kernels, Isa isa, const ManyKernels* mxfp4, const ManyKernels* bf16,
                                  const ManyKernels* mxfp4_int8, const ManyKernels* int8) {
  kernels.isa = isa;
  kernels.many_mxfp4 = mxfp4;
  kernels.many_bf16 = bf16;
  kernels.many_mxfp4_int8 = mxfp4_int8;
  kernels.many_int8 = int8;
  return kernels;
}

}  // namespace

const Kernels& kernels_for(Isa isa) {
#if defined(GPT_OSS_X86_64)
  static const Kernels avx512 = extended(avx512_kernels(), Isa::avx512, &avx512_mxfp4(), &avx512_bf16(),
                                         &avx512_mxfp4_int8(), &avx512_int8());
  static const Kernels avx512bf16 = extended(avx512_kernels(), Isa::avx512bf16, &avx512bf16_mxfp4(), &avx512bf16_bf16(),
                                             &avx512_mxfp4_int8(), &avx512_int8());
#if defined(GPT_OSS_AMX)
  static const Kernels amx = extended(avx512_kernels(), Isa::amx, &amx_mxfp4(), &amx_bf16(), nullptr, nullptr);
  if (isa == Isa::amx) return amx;
#endif
  static const Kernels avx2 = extended(avx2_kernels(), Isa::avx2, &avx2_mxfp4(), &avx2_bf16(),
                                       avx2_kernels().many_mxfp4_int8, avx2_kernels().many_int8);
  static const Kernels avxvnni = extended(avxvnni_kernels(), Isa::avxvnni, &avx2_mxfp4(), &avx2_bf16(),
                                          avxvnni_kernels().many_mxfp4_int8, avxvnni_kernels().many_int8);
  switch (isa) {
    case Isa::avx512bf16: return avx512bf16;
    case Isa::avx512: return avx512;
    case Isa::avxvnni: return avxvnni;
    case Isa::avx2: return avx2;
    default: break;
  }
#elif defined(GPT_OSS_ARM64)
  static const Kernels i8mm =
      extended(neon_kernels(), Isa::i8mm, nullptr, nullptr, &i8mm_mxfp4_int8(), &i8mm_int8());
  switch (isa) {
    case Isa::i8mm: return i8mm;
    case Isa::neon: return neon_kernels();
    default: break;
  }
#endif
  return plain_kernels();
}

}  // namespace gpt_oss

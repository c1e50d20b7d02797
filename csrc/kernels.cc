#include "kernels.h"

namespace gpt_oss {
namespace {

#if defined(__x86_64__)
Kernels with_many(Kernels kernels, Isa isa) {
  kernels.isa = isa;
  if (isa == Isa::avx512 || isa == Isa::avx512bf16) {
    kernels.many_mxfp4_int8 = &avx512_mxfp4_int8();
    kernels.many_int8 = &avx512_int8();
  }
  if (isa == Isa::avx512bf16) {
    kernels.many_mxfp4 = &avx512bf16_mxfp4();
    kernels.many_bf16 = &avx512bf16_bf16();
  }
  if (isa == Isa::amx) {
    kernels.many_mxfp4 = &amx_mxfp4();
    kernels.many_bf16 = &amx_bf16();
  }
  return kernels;
}
#endif

}  // namespace

const Kernels& kernels_for(Isa isa) {
#if defined(__x86_64__)
  static const Kernels avx512 = with_many(avx512_kernels(), Isa::avx512);
  static const Kernels avx512bf16 = with_many(avx512_kernels(), Isa::avx512bf16);
  static const Kernels amx = with_many(avx512_kernels(), Isa::amx);
  switch (isa) {
    case Isa::amx: return amx;
    case Isa::avx512bf16: return avx512bf16;
    case Isa::avx512: return avx512;
    case Isa::avxvnni: return avxvnni_kernels();
    case Isa::avx2: return avx2_kernels();
    default: break;
  }
#endif
  return plain_kernels();
}

}  // namespace gpt_oss

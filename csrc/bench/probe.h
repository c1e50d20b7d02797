// What a core can do at best, for kernel_bench: loops of one instruction on registers. Each returns the operations (a
// multiplication and an addition are two) that one thread did in one call of about a millisecond.
#pragma once

namespace gpt_oss {

double probe_vnni256();  // vpdpbusd on 256 bits
double probe_fma256();
double probe_maddubs256();  // vpmaddubsw, vpmaddwd and vpaddd, what stands for vpdpbusd where there is none
double probe_vnni512();
double probe_fma512();
double probe_bf16_512();  // vdpbf16ps
double probe_amx_bf16();
double probe_sdot();
double probe_fma128();
double probe_smmla();

}  // namespace gpt_oss

// The inner loops, one table of them for each instruction set. A kernel runs on one thread and knows no threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.h"
#include "matmul.h"
#include "portable.h"

namespace gpt_oss {

// 128 activations as int8, in the order that 64 bytes of MXFP4 unpack to: the even values of four blocks, the odd ones.
// Columns of the plain kernels and of NEON's are made of these; the others have forms of their own.
// Lanes 4b .. 4b + 3 of start and scale belong to block b.
struct alignas(64) Int8Group {
  int8_t even[64];
  int8_t odd[64];
  int32_t start[16];  // lane 4b: -offset * (sum of block b), which takes the weights' offset back; the others 0
  float scale[16];
};

// MXFP4 is unpacked to 2 * value + 12, which is unsigned as vpdpbusd wants it.
inline constexpr int kMxfp4Offset = 12;
inline constexpr int kInt8Offset = 128;

// Rows of a weight matrix as a kernel sees them. `blocks` and `scales` of MXFP4, or values and scales of Int8Weight, or
// bfloat16 in `blocks`.
struct Rows {
  const void* blocks;
  const void* scales;
  int rows;
  int cols;
  int scale_bias;
};

// A few tokens: out[c * stride + r] = row r . column c. Columns are what pack_int8 or pack_exact makes.
using FewKernel = void (*)(const Rows& w, const void* const* columns, int count, float* out, size_t stride);

// Many tokens: panels of rows times all columns. What a packed column is, and in which order a product lies in `out`, is
// the kernel's own affair: its own functions take it from there.
struct ManyKernels {
  int panel_rows;  // half of it, what swiglu leaves, is a whole piece of the next product's columns
  int token_tile;  // tokens are padded to a multiple of this, with zeros
  // Bytes of `tokens` packed columns, and of the scratch that `multiply` needs.
  size_t (*packed_bytes)(int tokens, int cols);
  size_t (*scratch_bytes)(int cols);
  // Packs tile `tile` of `packed` from token_tile rows of cols floats each; a null row stands for zeros.
  void (*pack)(const float* const* x, int tile, int cols, void* packed);
  // out = the rows times all (padded) tokens. `out` has room for whole panels of rows.
  void (*multiply)(const Rows& w, const void* packed, int tokens, float* out, void* scratch);
  // Of a product of `rows` rows, gate and linear in turn, with their bias [rows]: rows / 2 activations a token.
  void (*swiglu)(const float* product, const uint16_t* bias, int rows, int tokens, float limit, float* out);
  // Packs what swiglu left of `rows` rows as columns [first, first + rows / 2) of all tokens.
  void (*pack_inner)(const float* active, int rows, int first, int tokens, int cols, void* packed);
  // y[t][r] = (add ? y[t][r] : 0) + product + bias[r], or no bias, for the first `count` tokens.
  void (*store)(const float* product, int rows, int tokens, int count, const float* bias, bool add, float* const* y);
};

struct Kernels {
  Isa isa;
  // Activations as int8 with a scale for every block, in a form of the kernels' own, aligned to 64 bytes. `offset` is
  // the weights': kMxfp4Offset or kInt8Offset. Unpacking gives the values that the packed ones stand for.
  size_t (*int8_bytes)(int cols);
  void (*pack_int8)(const float* x, int cols, int offset, void* out);
  void (*unpack_int8)(const void* packed, int cols, double* out);
  // Activations rounded to bf16, in a form of the kernels' own that takes at most 4 bytes a value.
  void (*pack_exact)(const float* x, int cols, void* out);
  FewKernel mxfp4_int8, mxfp4_exact, int8_int8, bf16_exact;
  void (*swiglu_row)(const float* in, const uint16_t* bias, int count, float limit, float* out);
  // Null where there is nothing faster than the kernels above. `mxfp4` and `bf16` take bf16 activations, the others int8.
  const ManyKernels *many_mxfp4, *many_bf16, *many_mxfp4_int8, *many_int8;
};

const Kernels& kernels_for(Isa isa);

const Kernels& plain_kernels();
#if defined(GPT_OSS_X86_64)
const Kernels& avx2_kernels();
const ManyKernels& avx2_mxfp4();
const ManyKernels& avx2_bf16();
const Kernels& avxvnni_kernels();
const Kernels& avx512_kernels();
const ManyKernels& avx512_mxfp4();
const ManyKernels& avx512_bf16();
const ManyKernels& avx512_mxfp4_int8();
const ManyKernels& avx512_int8();
const ManyKernels& avx512bf16_mxfp4();
const ManyKernels& avx512bf16_bf16();
#if defined(GPT_OSS_AMX)
const ManyKernels& amx_mxfp4();
const ManyKernels& amx_bf16();
#endif
#elif defined(GPT_OSS_ARM64)
const Kernels& neon_kernels();
const ManyKernels& i8mm_mxfp4_int8();
const ManyKernels& i8mm_int8();
#endif

}  // namespace gpt_oss

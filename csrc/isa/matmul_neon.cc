// The matrix kernels for NEON with the dot product of bytes (sdot), whose bytes are signed: offsets of weights, which
// Int8Group has room for, are not needed.
//
// A few tokens: bytes = the rows' own (MXFP4 0.53 a weight, int8 1.06, bf16 2), once for 8 tokens.
// Many tokens: 16 rows x 512 columns of weights are unpacked once, to [cols / 4][16 rows][4] bytes, and pass all
// tokens, 4 at a time: 16 sums, each 4 rows of a token. Bytes: the rows once; per 16 rows all tokens' (1.13 a value).
// FLOPs: 2 a weight and token.
#include "matmul_neon.h"

#include "matmul_few.h"

namespace gpt_oss {
namespace {

void pack_int8(const float* x, int cols, int, void* packed) {
  auto* out = static_cast<Int8Group*>(packed);
  for (int g = 0; g < groups(cols); ++g) {
    Int8Group& group = out[g];
    std::memset(&group, 0, sizeof group);
    for (int b = 0; b < 4 && g * 128 + b * kBlock < cols; ++b) {
      const Quantised block = quantise(x + g * 128 + b * kBlock);
      vst1q_s8(group.even + b * 16, block.bytes.even);
      vst1q_s8(group.odd + b * 16, block.bytes.odd);
      vst1q_f32(group.scale + b * 4, vdupq_n_f32(block.scale));
    }
  }
}

inline float32x4_t round_bf16(float32x4_t x) {
  const uint32x4_t bits = vreinterpretq_u32_f32(x), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vaddq_u32(vaddq_u32(bits, odd), vdupq_n_u32(0x7fff));
  return vreinterpretq_f32_u32(vandq_u32(rounded, vdupq_n_u32(0xffff0000)));
}

// Blocks of float32: the 16 even values, then the odd ones.
void pack_exact(const float* x, int cols, void* packed) {
  auto* out = static_cast<float*>(packed);
  for (int i = 0; i < cols; i += 8) {
    const float32x4_t low = round_bf16(vld1q_f32(x + i)), high = round_bf16(vld1q_f32(x + i + 4));
    float* to = out + i / kBlock * kBlock + i % kBlock / 2;
    vst1q_f32(to, vuzp1q_f32(low, high));
    vst1q_f32(to + 16, vuzp2q_f32(low, high));
  }
}

template <class Source>
void times_int8(const Rows& w, const void* const* columns, int count, float* out, size_t stride) {
  const Source source(w);
  const int blocks = w.cols / kBlock;
  const auto row = [&]<int N>(size_t r, const Int8Group* const (&x)[N], float (&result)[N]) {
    const uint8_t* ahead = static_cast<const uint8_t*>(w.blocks) + r * source.row_bytes() + 1536;
    float32x4_t sum[N];
    for (int c = 0; c < N; ++c) sum[c] = vdupq_n_f32(0);
    for (int b = 0; b < blocks; ++b) {
      const EvenOdd weights = source.values(r, b);
      GPT_OSS_PREFETCH(ahead + b * Source::kBlockBytes);
      const float32x4_t scale = vdupq_n_f32(source.scale(r, b));
#pragma GCC unroll 8
      for (int c = 0; c < N; ++c) {
        const Int8Group& group = x[c][b / 4];
        int32x4_t dot = vdotq_s32(vdupq_n_s32(0), weights.even, vld1q_s8(group.even + b % 4 * 16));
        dot = vdotq_s32(dot, weights.odd, vld1q_s8(group.odd + b % 4 * 16));
        add_scaled(sum[c], dot, scale, vld1q_f32(group.scale + b % 4 * 4));
      }
    }
    for (int c = 0; c < N; ++c) result[c] = vaddvq_f32(sum[c]);
  };
  few<Int8Group>(w, columns, count, out, stride, row);
}

// A block's weights as floats: registers 0 .. 3 the even ones, 4 .. 7 the odd ones.
struct Floats {
  float32x4_t of[8];
};

// The bits of half precision, whose low bytes are zero for every value of e2m1.
inline Floats mxfp4_floats(const uint8_t* nibbles) {
  constexpr uint8_t kHigh[16] = {0x00, 0x38, 0x3c, 0x3e, 0x40, 0x42, 0x44, 0x46,
                                 0x80, 0xb8, 0xbc, 0xbe, 0xc0, 0xc2, 0xc4, 0xc6};
  const uint8x16_t table = vld1q_u8(kHigh), bytes = vld1q_u8(nibbles), zero = vdupq_n_u8(0);
  Floats floats;
  for (int odd = 0; odd < 2; ++odd) {
    const uint8x16_t high = vqtbl1q_u8(table, odd ? vshrq_n_u8(bytes, 4) : vandq_u8(bytes, vdupq_n_u8(15)));
    const float16x8_t first = vreinterpretq_f16_u8(vzip1q_u8(zero, high));
    const float16x8_t second = vreinterpretq_f16_u8(vzip2q_u8(zero, high));
    floats.of[4 * odd] = vcvt_f32_f16(vget_low_f16(first));
    floats.of[4 * odd + 1] = vcvt_high_f32_f16(first);
    floats.of[4 * odd + 2] = vcvt_f32_f16(vget_low_f16(second));
    floats.of[4 * odd + 3] = vcvt_high_f32_f16(second);
  }
  return floats;
}

inline Floats bf16_floats(const uint16_t* weights) {
  Floats floats;
  for (int i = 0; i < 4; ++i) {
    const uint32x4_t pairs = vreinterpretq_u32_u16(vld1q_u16(weights + 8 * i));
    floats.of[i] = vreinterpretq_f32_u32(vshlq_n_u32(pairs, 16));
    floats.of[4 + i] = vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xffff0000)));
  }
  return floats;
}

// Times a column as pack_exact leaves it. Summed apart from other blocks, or a row would wait for one addition after
// the other.
inline float32x4_t block_dot(const Floats& w, const float* x) {
  float32x4_t first = vmulq_f32(w.of[0], vld1q_f32(x)), second = vmulq_f32(w.of[1], vld1q_f32(x + 4));
#pragma GCC unroll 3
  for (int i = 2; i < 8; i += 2) {
    first = vfmaq_f32(first, w.of[i], vld1q_f32(x + 4 * i));
    second = vfmaq_f32(second, w.of[i + 1], vld1q_f32(x + 4 * i + 4));
  }
  return vaddq_f32(first, second);
}

void mxfp4_exact(const Rows& w, const void* const* columns, int count, float* out, size_t stride) {
  const int blocks = w.cols / kBlock;
  few<float>(w, columns, count, out, stride, [&]<int N>(size_t r, const float* const (&x)[N], float (&result)[N]) {
    const uint8_t* nibbles = static_cast<const uint8_t*>(w.blocks) + r * blocks * 16;
    const uint8_t* scales = static_cast<const uint8_t*>(w.scales) + r * blocks;
    float32x4_t sum[N];
    for (int c = 0; c < N; ++c) sum[c] = vdupq_n_f32(0);
    for (int b = 0; b < blocks; ++b) {
      GPT_OSS_PREFETCH(nibbles + b * 16 + 1536);
      const Floats weights = mxfp4_floats(nibbles + b * 16);
      const float scale = 2 * half_e8m0(scales[b], w.scale_bias);
#pragma GCC unroll 8
      for (int c = 0; c < N; ++c) sum[c] = vfmaq_n_f32(sum[c], block_dot(weights, x[c] + b * kBlock), scale);
    }
    for (int c = 0; c < N; ++c) result[c] = vaddvq_f32(sum[c]);
  });
}

void bf16_exact(const Rows& w, const void* const* columns, int count, float* out, size_t stride) {
  few<float>(w, columns, count, out, stride, [&]<int N>(size_t r, const float* const (&x)[N], float (&result)[N]) {
    const uint16_t* row = static_cast<const uint16_t*>(w.blocks) + r * w.cols;
    float32x4_t sum[N];
    for (int c = 0; c < N; ++c) sum[c] = vdupq_n_f32(0);
    for (int i = 0; i < w.cols; i += kBlock) {
      GPT_OSS_PREFETCH(row + i + 1024);
      const Floats weights = bf16_floats(row + i);
#pragma GCC unroll 8
      for (int c = 0; c < N; ++c) sum[c] = vaddq_f32(sum[c], block_dot(weights, x[c] + i));
    }
    for (int c = 0; c < N; ++c) result[c] = vaddvq_f32(sum[c]);
  });
}

// 32 values of a token, in the order of EvenOdd.
struct TokenBlock {
  int8_t values[kBlock];
  float scale;
};

size_t packed_bytes(int tokens, int cols) { return static_cast<size_t>(tokens) * (cols / kBlock) * sizeof(TokenBlock); }

inline void pack_block(const float* x, TokenBlock& out) {
  const Quantised block = quantise(x);
  vst1q_s8(out.values, block.bytes.even);
  vst1q_s8(out.values + 16, block.bytes.odd);
  out.scale = block.scale;
}

void pack_token(const float* const* x, int token, int cols, void* packed) {
  TokenBlock* out = static_cast<TokenBlock*>(packed) + static_cast<size_t>(token) * (cols / kBlock);
  for (int b = 0; b < cols / kBlock; ++b) pack_block(x[0] + b * kBlock, out[b]);
}

void pack_inner(const float* active, int rows, int first, int tokens, int cols, void* packed) {
  for (int t = 0; t < tokens; ++t) {
    const float* row = active + t * Layout::stride(rows) / 2;
    TokenBlock* out = static_cast<TokenBlock*>(packed) + (static_cast<size_t>(t) * cols + first) / kBlock;
    for (int b = 0; b < rows / 2 / kBlock; ++b) pack_block(row + b * kBlock, out[b]);
  }
}

template <class Source>
struct ManyKernel {
  static constexpr int kRegisters = 4, kRows = 4 * kRegisters, kStep = 1, kTile = 4, kChunk = 16;
  static constexpr size_t kBlockBytes = Source::kBlockBytes;

  struct alignas(64) WeightBlock {
    int8_t values[kBlock / 4][kRegisters][16];  // four columns, in TokenBlock's order, of 4 rows
    float scales[kRegisters][4];
  };

  Source source;
  const TokenBlock* x;
  size_t blocks;
  int last;

  ManyKernel(const Rows& w, const void* packed)
      : source(w), x(static_cast<const TokenBlock*>(packed)), blocks(w.cols / kBlock), last(w.rows - 1) {}

  size_t row_bytes() const { return source.row_bytes(); }

  // The same 16 bytes of 4 rows to four registers that each hold four bytes of every row.
  static void store_transposed(int8x16_t a, int8x16_t b, int8x16_t c, int8x16_t d, int8_t (*out)[kRegisters][16]) {
    const auto words = [](int8x16_t v) { return vreinterpretq_s32_s8(v); };
    const auto pairs = [](int32x4_t v) { return vreinterpretq_s64_s32(v); };
    const auto store = [](int64x2_t v, int8_t* to) { vst1q_s8(to, vreinterpretq_s8_s64(v)); };
    const int32x4_t even01 = vtrn1q_s32(words(a), words(b)), odd01 = vtrn2q_s32(words(a), words(b));
    const int32x4_t even23 = vtrn1q_s32(words(c), words(d)), odd23 = vtrn2q_s32(words(c), words(d));
    store(vtrn1q_s64(pairs(even01), pairs(even23)), out[0][0]);
    store(vtrn1q_s64(pairs(odd01), pairs(odd23)), out[1][0]);
    store(vtrn2q_s64(pairs(even01), pairs(even23)), out[2][0]);
    store(vtrn2q_s64(pairs(odd01), pairs(odd23)), out[3][0]);
  }

  void unpack(int first, int block, int count, WeightBlock* out) const {
    for (int at = 0; at < kRegisters; ++at) {
      for (int b = 0; b < count; ++b) {
        EvenOdd row[4];
        for (int r = 0; r < 4; ++r) {
          const int number = std::min(first + at * 4 + r, last);
          row[r] = source.values(number, block + b);
          out[b].scales[at][r] = source.scale(number, block + b);
        }
        // out[0][at] as `out` of [kRegisters][16]: the register's place in each step.
        auto* to = reinterpret_cast<int8_t(*)[kRegisters][16]>(out[b].values[0][at]);
        store_transposed(row[0].even, row[1].even, row[2].even, row[3].even, to);
        store_transposed(row[0].odd, row[1].odd, row[2].odd, row[3].odd, to + 4);
      }
    }
  }

  template <int N>
  GPT_OSS_NOINLINE void multiply(const WeightBlock* w, int token, int block, int count, float* out, size_t stride,
                                  Fetch& fetch) const {
    const TokenBlock* tokens = x + token * blocks + block;
    float32x4_t sum[kRegisters][N];
#pragma GCC unroll 4
    for (int t = 0; t < N; ++t) {
#pragma GCC unroll 4
      for (int r = 0; r < kRegisters; ++r) {
        sum[r][t] = block > 0 ? vld1q_f32(out + t * stride + r * 4) : vdupq_n_f32(0);
      }
    }
    for (int b = 0; b < count; ++b, ++w, ++tokens) {
      int32x4_t dot[kRegisters][N];
#pragma GCC unroll 4
      for (int t = 0; t < N; ++t) {
#pragma GCC unroll 4
        for (int r = 0; r < kRegisters; ++r) dot[r][t] = vdupq_n_s32(0);
      }
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        int8x16_t four[N];
#pragma GCC unroll 4
        for (int t = 0; t < N; ++t) four[t] = vld1q_s8(tokens[t * blocks].values + half * 16);
        const auto step = [&](auto lane) {
#pragma GCC unroll 4
          for (int r = 0; r < kRegisters; ++r) {
            const int8x16_t weights = vld1q_s8(w->values[half * 4 + lane][r]);
#pragma GCC unroll 4
            for (int t = 0; t < N; ++t) dot[r][t] = vdotq_laneq_s32(dot[r][t], weights, four[t], lane);
          }
        };
        step(std::integral_constant<int, 0>());
        step(std::integral_constant<int, 1>());
        step(std::integral_constant<int, 2>());
        step(std::integral_constant<int, 3>());
      }
      // The next tokens: streams too short for the hardware to follow.
#pragma GCC unroll 4
      for (int t = 0; t < N; ++t) GPT_OSS_PREFETCH(tokens + (N + t) * blocks);
      fetch();
#pragma GCC unroll 4
      for (int t = 0; t < N; ++t) {
        const float32x4_t scale = vdupq_n_f32(tokens[t * blocks].scale);
#pragma GCC unroll 4
        for (int r = 0; r < kRegisters; ++r) add_scaled(sum[r][t], dot[r][t], vld1q_f32(w->scales[r]), scale);
      }
    }
#pragma GCC unroll 4
    for (int t = 0; t < N; ++t) {
#pragma GCC unroll 4
      for (int r = 0; r < kRegisters; ++r) vst1q_f32(out + t * stride + r * 4, sum[r][t]);
    }
  }
};

template <class Source>
constexpr ManyKernels many_kernels() {
  using Kernel = ManyKernel<Source>;
  return {kPanel, Kernel::kStep, packed_bytes, chunk_bytes<Kernel>, pack_token, multiply_chunks<Kernel>, Layout::swiglu,
          pack_inner, Layout::store};
}

constexpr ManyKernels kManyMxfp4 = many_kernels<Mxfp4Source>(), kManyInt8 = many_kernels<Int8Source>();

}  // namespace

const Kernels& neon_kernels() {
  static constexpr Kernels kernels = {.isa = Isa::neon,
                                      .int8_bytes = group_bytes,
                                      .pack_int8 = pack_int8,
                                      .unpack_int8 = unpack_groups,
                                      .pack_exact = pack_exact,
                                      .mxfp4_int8 = times_int8<Mxfp4Source>,
                                      .mxfp4_exact = mxfp4_exact,
                                      .int8_int8 = times_int8<Int8Source>,
                                      .bf16_exact = bf16_exact,
                                      .swiglu_row = swiglu_row,
                                      .many_mxfp4 = nullptr,
                                      .many_bf16 = nullptr,
                                      .many_mxfp4_int8 = &kManyMxfp4,
                                      .many_int8 = &kManyInt8};
  return kernels;
}

}  // namespace gpt_oss

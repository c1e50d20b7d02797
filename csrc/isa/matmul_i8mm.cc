// Many tokens on Arm's I8MM, whose smmla multiplies 2 rows by 2 tokens of 8 columns: int8 activations times MXFP4 or
// int8 weights, int32 sums in a block. 8 rows x 512 columns of weights are unpacked once, to [cols / 8][8 rows][8]
// bytes, and pass all tokens, 8 at a time: 16 sums of 2 x 2.
//
// FLOPs: 2 * rows * cols * tokens. Bytes: the rows once; per 8 rows all tokens' (1.25 a value) from the L2 cache.
#include "matmul_neon.h"

namespace gpt_oss {
namespace {

// 32 values of two tokens: every 16 of them as the 8 even ones, then the odd ones.
struct alignas(16) PairBlock {
  int8_t values[kBlock / 8][2][8];
  float scales[4];  // first, first, second, second
};

size_t packed_bytes(int tokens, int cols) {
  return static_cast<size_t>(tokens / 2) * (cols / kBlock) * sizeof(PairBlock);
}

inline void pack_block(const float* x, int which, PairBlock& out) {
  const Quantised block = quantise(x);
  vst1_s8(out.values[0][which], vget_low_s8(block.bytes.even));
  vst1_s8(out.values[1][which], vget_low_s8(block.bytes.odd));
  vst1_s8(out.values[2][which], vget_high_s8(block.bytes.even));
  vst1_s8(out.values[3][which], vget_high_s8(block.bytes.odd));
  vst1_f32(out.scales + 2 * which, vdup_n_f32(block.scale));
}

void pack_pair(const float* const* x, int pair, int cols, void* packed) {
  PairBlock* out = static_cast<PairBlock*>(packed) + static_cast<size_t>(pair) * (cols / kBlock);
  std::memset(out, 0, (cols / kBlock) * sizeof(PairBlock));
  for (int which = 0; which < 2; ++which) {
    for (int b = 0; x[which] != nullptr && b < cols / kBlock; ++b) pack_block(x[which] + b * kBlock, which, out[b]);
  }
}

void pack_inner(const float* active, int rows, int first, int tokens, int cols, void* packed) {
  for (int t = 0; t < tokens; ++t) {
    const float* row = active + t * Layout::stride(rows) / 2;
    PairBlock* out = static_cast<PairBlock*>(packed) + (static_cast<size_t>(t / 2) * cols + first) / kBlock;
    for (int b = 0; b < rows / 2 / kBlock; ++b) pack_block(row + b * kBlock, t % 2, out[b]);
  }
}

template <class Source>
struct ManyKernel {
  static constexpr int kRegisters = 4, kRows = 2 * kRegisters, kStep = 2, kTile = 4, kChunk = 16;
  static constexpr size_t kBlockBytes = Source::kBlockBytes;

  struct alignas(64) WeightBlock {
    int8_t values[kBlock / 8][kRegisters][16];  // eight columns, in PairBlock's order, of 2 rows
    float scales[kRegisters][2];
  };

  Source source;
  const PairBlock* x;
  size_t blocks;
  int last;

  ManyKernel(const Rows& w, const void* packed)
      : source(w), x(static_cast<const PairBlock*>(packed)), blocks(w.cols / kBlock), last(w.rows - 1) {}

  size_t row_bytes() const { return source.row_bytes(); }

  void unpack(int first, int block, int count, WeightBlock* out) const {
    for (int at = 0; at < kRegisters; ++at) {
      const int rows[2] = {std::min(first + at * 2, last), std::min(first + at * 2 + 1, last)};
      for (int b = 0; b < count; ++b) {
        const EvenOdd a = source.values(rows[0], block + b), c = source.values(rows[1], block + b);
        vst1q_s8(out[b].values[0][at], vcombine_s8(vget_low_s8(a.even), vget_low_s8(c.even)));
        vst1q_s8(out[b].values[1][at], vcombine_s8(vget_low_s8(a.odd), vget_low_s8(c.odd)));
        vst1q_s8(out[b].values[2][at], vcombine_s8(vget_high_s8(a.even), vget_high_s8(c.even)));
        vst1q_s8(out[b].values[3][at], vcombine_s8(vget_high_s8(a.odd), vget_high_s8(c.odd)));
        for (int r = 0; r < 2; ++r) out[b].scales[at][r] = source.scale(rows[r], block + b);
      }
    }
  }

  // N pairs of tokens. A sum: the first token's two rows, then the second's.
  template <int N>
  GPT_OSS_NOINLINE void multiply(const WeightBlock* w, int token, int block, int count, float* out, size_t stride,
                                  Fetch& fetch) const {
    const PairBlock* pairs = x + token / 2 * blocks + block;
    float32x4_t sum[kRegisters][N];
#pragma GCC unroll 4
    for (int t = 0; t < N; ++t) {
#pragma GCC unroll 4
      for (int r = 0; r < kRegisters; ++r) {
        const float* from = out + 2 * t * stride + r * 2;
        sum[r][t] = block > 0 ? vcombine_f32(vld1_f32(from), vld1_f32(from + stride)) : vdupq_n_f32(0);
      }
    }
    for (int b = 0; b < count; ++b, ++w, ++pairs) {
      int32x4_t dot[kRegisters][N];
#pragma GCC unroll 4
      for (int t = 0; t < N; ++t) {
#pragma GCC unroll 4
        for (int r = 0; r < kRegisters; ++r) dot[r][t] = vdupq_n_s32(0);
      }
#pragma GCC unroll 4
      for (int k = 0; k < kBlock / 8; ++k) {
        int8x16_t two[N];
#pragma GCC unroll 4
        for (int t = 0; t < N; ++t) two[t] = vld1q_s8(pairs[t * blocks].values[k][0]);
#pragma GCC unroll 4
        for (int r = 0; r < kRegisters; ++r) {
          const int8x16_t weights = vld1q_s8(w->values[k][r]);
#pragma GCC unroll 4
          for (int t = 0; t < N; ++t) dot[r][t] = vmmlaq_s32(dot[r][t], two[t], weights);
        }
      }
      // The next tokens: streams too short for the hardware to follow.
#pragma GCC unroll 4
      for (int t = 0; t < N; ++t) GPT_OSS_PREFETCH(pairs + (N + t) * blocks);
      fetch();
#pragma GCC unroll 4
      for (int t = 0; t < N; ++t) {
        const float32x4_t scale = vld1q_f32(pairs[t * blocks].scales);
#pragma GCC unroll 4
        for (int r = 0; r < kRegisters; ++r) {
          const float32x2_t rows = vld1_f32(w->scales[r]);
          add_scaled(sum[r][t], dot[r][t], vcombine_f32(rows, rows), scale);
        }
      }
    }
#pragma GCC unroll 4
    for (int t = 0; t < N; ++t) {
#pragma GCC unroll 4
      for (int r = 0; r < kRegisters; ++r) {
        float* to = out + 2 * t * stride + r * 2;
        vst1_f32(to, vget_low_f32(sum[r][t]));
        vst1_f32(to + stride, vget_high_f32(sum[r][t]));
      }
    }
  }
};

template <class Source>
constexpr ManyKernels many_kernels() {
  using Kernel = ManyKernel<Source>;
  return {kPanel, Kernel::kStep, packed_bytes, chunk_bytes<Kernel>, pack_pair, multiply_chunks<Kernel>, Layout::swiglu,
          pack_inner, Layout::store};
}

}  // namespace

const ManyKernels& i8mm_mxfp4_int8() {
  static constexpr ManyKernels kernels = many_kernels<Mxfp4Source>();
  return kernels;
}

const ManyKernels& i8mm_int8() {
  static constexpr ManyKernels kernels = many_kernels<Int8Source>();
  return kernels;
}

}  // namespace gpt_oss

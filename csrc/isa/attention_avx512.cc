// Attention in float32 with AVX-512: attention_tile.h, 16 lanes.
#include "attention_tile.h"

namespace gpt_oss {

extern const AttentionKernel kAttention_avx512{"avx512", QueryLayout::kFloat, 8, Tile<16>::span, Tile<16>::merge,
                                               Tile<16>::expand};

}  // namespace gpt_oss

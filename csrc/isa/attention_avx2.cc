// Attention in float32 with AVX2: attention_tile.h, 8 lanes.
#include "attention_tile.h"

namespace gpt_oss {

extern const AttentionKernel kAttention_avx2{"avx2", QueryLayout::kFloat, 8, Tile<8>::span, Tile<8>::merge,
                                             Tile<8>::expand};

}  // namespace gpt_oss

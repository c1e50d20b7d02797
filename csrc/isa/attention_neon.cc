// Attention in float32 with NEON: attention_tile.h, 4 lanes.
#include "attention_tile.h"

namespace gpt_oss {

extern const AttentionKernel kAttention_neon{"neon", QueryLayout::kFloat, 8, Tile<4>::span, Tile<4>::merge,
                                             Tile<4>::expand};

}  // namespace gpt_oss

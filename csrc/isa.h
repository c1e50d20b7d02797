// The instruction sets that kernels are compiled for, and which of them this machine has.
#pragma once

#include <string>
#include <vector>

namespace gpt_oss {

enum class Isa { plain, avx2, avxvnni, avx512, avx512bf16, amx, neon, i8mm };

const char* isa_name(Isa isa);

// Throws std::invalid_argument for a name that is none, or an instruction set that this machine lacks.
Isa parse_isa(const std::string& name);

// Best first; plain, which every machine has, is last. Asks the system for AMX's registers where it must be asked.
const std::vector<Isa>& available_isas();

inline Isa best_isa() { return available_isas().front(); }

}  // namespace gpt_oss

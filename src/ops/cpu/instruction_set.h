#pragma once

namespace diffusers {
inline namespace internal {
namespace cpu {

/// The instructions that a CPU kernel is compiled for. Each set includes those before it.
enum class InstructionSet {
  kNone,    ///< no kernel runs
  kAvx2,    ///< AVX2 and FMA
  kAvx512,  ///< AVX-512 F, BW, DQ and VL
};

/// Returns the largest instruction set of this machine that DIFFUSERS_CPU_CAPABILITY allows. The variable is
/// read once.
/// @throws ConfigError for an unknown value
InstructionSet instruction_set();

/// Returns the smaller one of a machine's instruction set and the one that a value of
/// DIFFUSERS_CPU_CAPABILITY names: "default" (no kernel), "avx2" or "avx512", as of ATEN_CPU_CAPABILITY.
/// @param value null or empty: the machine's
/// @throws ConfigError for another value
InstructionSet limited_instruction_set(const char* value, InstructionSet machine);

}  // namespace cpu
}  // namespace internal
}  // namespace diffusers

#include "ops/cpu/instruction_set.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "core/require.h"

namespace diffusers {
inline namespace internal {
namespace cpu {
namespace {

InstructionSet instruction_set_of_machine() {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return InstructionSet::kNone;
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                          __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  return has_avx512 ? InstructionSet::kAvx512 : InstructionSet::kAvx2;
#else
  return InstructionSet::kNone;
#endif
}

}  // namespace

InstructionSet limited_instruction_set(const char* value, InstructionSet machine) {
  const std::string_view name = value != nullptr ? value : "";
  if (name.empty() || name == "avx512") return machine;
  if (name == "avx2") return std::min(machine, InstructionSet::kAvx2);
  require<ConfigError>(name == "default",
                       "DIFFUSERS_CPU_CAPABILITY is \"{}\", expected \"default\", \"avx2\" or \"avx512\"",
                       name);
  return InstructionSet::kNone;
}

InstructionSet instruction_set() {
  static const InstructionSet set =
      limited_instruction_set(std::getenv("DIFFUSERS_CPU_CAPABILITY"), instruction_set_of_machine());
  return set;
}

}  // namespace cpu
}  // namespace internal
}  // namespace diffusers

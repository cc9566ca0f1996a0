#include "training/loop/slow_bf16.h"

#include <diffusers/core/logging.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace diffusers {
inline namespace internal {

bool processor_multiplies_bf16() {
#if defined(__x86_64__)
  constexpr unsigned kFeatures = 7;  // leaf of the structured extended features
  constexpr unsigned kAmxBf16 = 1U << 22;
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  if (__get_cpuid_count(kFeatures, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  return (edx & kAmxBf16) != 0;
#else
  return false;
#endif
}

bool warn_of_slow_bf16(at::Device device, MixedPrecision precision, bool multiplies_bf16) {
  if (!device.is_cpu() || precision != MixedPrecision::kBf16 || multiplies_bf16) return false;
  log_message(LogLevel::kWarning,
              "mixed_precision is \"bf16\", but this processor has no AMX: its steps take "
              "longer than in float32; set mixed_precision to \"no\"");
  return true;
}

}  // namespace internal
}  // namespace diffusers

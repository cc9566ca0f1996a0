#include <atomic>
#include <cstdlib>
#include <string_view>

#include <diffusers/core/cuda_options.h>
#include <diffusers/core/error.h>
#include <diffusers/ops/fused.h>

#include "core/require.h"

namespace diffusers {
namespace {

enum class Switch { kUnset, kOff, kOn };

std::atomic<Switch> g_fused{Switch::kUnset};
std::atomic<bool> g_fused_cpu{true};

/// Reads DIFFUSERS_FUSED.
Switch switch_of_environment() {
  const char* const text = std::getenv("DIFFUSERS_FUSED");
  const std::string_view value = text == nullptr ? "" : text;
  if (value.empty() || value == "1") return Switch::kOn;
  require<ConfigError>(value == "0", "DIFFUSERS_FUSED is \"{}\", expected \"0\" or \"1\"", value);
  return Switch::kOff;
}

}  // namespace

namespace ops {

void set_fused(bool enabled) { g_fused = enabled ? Switch::kOn : Switch::kOff; }

bool fused() {
  Switch value = g_fused;
  if (value == Switch::kUnset) {
    value = switch_of_environment();
    Switch unset = Switch::kUnset;
    // A call of set_fused in another thread takes precedence.
    if (!g_fused.compare_exchange_strong(unset, value)) value = unset;
  }
  return value == Switch::kOn;
}

}  // namespace ops

void set_fused_cpu(bool enabled) { g_fused_cpu = enabled; }
bool fused_cpu() { return ops::fused() && g_fused_cpu; }

void set_fused_cuda(bool enabled) {
  CudaOptions options = cuda_options();
  options.kernels = enabled;
  set_cuda_options(options);
}
bool fused_cuda() { return ops::fused() && cuda_options().kernels; }

}  // namespace diffusers

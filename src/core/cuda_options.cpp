#include <array>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/cuda_options.h>
#include <diffusers/core/error.h>

#include <ATen/Context.h>

#include "core/require.h"

namespace diffusers {
namespace {

constexpr std::string_view kNoCudnnTf32 = "no_cudnn_tf32";

constexpr std::array<std::pair<std::string_view, bool CudaOptions::*>, 6> kCudaOptionNames{{
    {"kernels", &CudaOptions::kernels},
    {"channels_last", &CudaOptions::channels_last},
    {"async_copies", &CudaOptions::async_copies},
    {"graphs", &CudaOptions::graphs},
    {"allow_tf32", &CudaOptions::allow_tf32},
    {"cudnn_benchmark", &CudaOptions::cudnn_benchmark},
}};

struct CudaOptionsState {
  std::mutex mutex;
  std::optional<CudaOptions> options;  // nullopt: neither set nor read from the environment
};

CudaOptionsState& cuda_options_state() {
  static CudaOptionsState instance;
  return instance;
}

/// Passes only what changed: a program may have set the rest itself.
void pass_to_libtorch(const CudaOptions& before, const CudaOptions& options) {
  at::Context& context = at::globalContext();
  if (options.allow_tf32 != before.allow_tf32) context.setAllowTF32CuBLAS(options.allow_tf32);
  if (options.allow_tf32_cudnn != before.allow_tf32_cudnn)
    context.setAllowTF32CuDNN(options.allow_tf32_cudnn);
  if (options.cudnn_benchmark != before.cudnn_benchmark) context.setBenchmarkCuDNN(options.cudnn_benchmark);
}

/// The caller holds the mutex.
const CudaOptions& current_options(CudaOptionsState& state) {
  if (!state.options) {
    const char* const text = std::getenv("DIFFUSERS_CUDA");
    const CudaOptions initial = parse_cuda_options(text == nullptr ? "" : text);
    pass_to_libtorch(CudaOptions(), initial);
    state.options = initial;
  }
  return *state.options;
}

void switch_option(CudaOptions& options, std::string_view name) {
  if (name == kNoCudnnTf32) {
    options.allow_tf32_cudnn = false;
    return;
  }
  for (const auto& [known, member] : kCudaOptionNames)
    if (name == known) {
      options.*member = true;
      return;
    }
  std::vector<std::string_view> names;
  for (const auto& entry : kCudaOptionNames) names.push_back(entry.first);
  fail<ConfigError>("DIFFUSERS_CUDA names \"{}\", expected some of: {}, {}", name, fmt::join(names, ", "),
                    kNoCudnnTf32);
}

}  // namespace

CudaOptions parse_cuda_options(std::string_view names) {
  CudaOptions options;
  while (!names.empty()) {
    const std::size_t comma = names.find(',');
    switch_option(options, names.substr(0, comma));
    names = comma == std::string_view::npos ? std::string_view() : names.substr(comma + 1);
  }
  return options;
}

CudaOptions cuda_options() {
  CudaOptionsState& state = cuda_options_state();
  const std::lock_guard lock(state.mutex);
  return current_options(state);
}

void set_cuda_options(const CudaOptions& options) {
  CudaOptionsState& state = cuda_options_state();
  const std::lock_guard lock(state.mutex);
  pass_to_libtorch(state.options.value_or(CudaOptions()), options);
  state.options = options;
}

}  // namespace diffusers

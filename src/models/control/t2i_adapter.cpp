#include <cmath>
#include <memory>

#include <diffusers/models/t2i_adapter.h>

#include <torch/types.h>

#include "core/freed_memory.h"
#include "core/require.h"
#include "models/checks.h"
#include "models/control/t2i_adapter_body.h"
#include "models/model_config.h"

namespace diffusers {

void visit_fields(T2IAdapterConfig& config, ConfigVisitor& visit) {
  visit("in_channels", config.in_channels);
  visit("channels", config.channels);
  visit("num_res_blocks", config.num_res_blocks);
  visit("downscale_factor", config.downscale_factor);
  visit("adapter_type", config.adapter_type);
}

namespace {

/// Largest downscale factor. Its square does not overflow.
constexpr int64_t kMostDownscale = 1024;

void check_adapter_config(const T2IAdapterConfig& config) {
  require_positive("in_channels", config.in_channels);
  require_positive("downscale_factor", config.downscale_factor, kMostDownscale);
  require<ConfigError>(config.num_res_blocks >= 0 && config.num_res_blocks <= kMostLayers,
                       "num_res_blocks is {}, expected a number from 0 to {}", config.num_res_blocks,
                       kMostLayers);
  require<ConfigError>(!config.channels.empty(), "channels is empty, expected the channels of each block");
  for (const auto channels : config.channels) require_positive("channels", channels);
  // Each block halves the resolution, and the product must fit in 63 bits.
  require<ConfigError>(config.channels.size() < 32, "channels has {} elements, expected fewer than 32",
                       config.channels.size());
  if (config.adapter_type != T2IAdapterType::kFullAdapterXl) return;
  for (std::size_t i = 3; i < config.channels.size(); ++i) {
    require<ConfigError>(
        config.channels[i] == config.channels[i - 1],
        "channels is {}, but in a \"full_adapter_xl\" all after the third must be equal to it",
        config.channels);
  }
}

}  // namespace

T2IAdapterImpl::T2IAdapterImpl(T2IAdapterConfig config) : ModelImpl(std::move(config)) {
  build_model(kClassName, [&] { reset(); });
}

void T2IAdapterImpl::reset() {
  check_adapter_config(config());
  adapter_ = register_module("adapter", std::make_shared<T2IAdapterBody>(config()));
}

int64_t T2IAdapterImpl::total_downscale_factor() const { return adapter_->total_downscale_factor(); }

std::vector<Tensor> T2IAdapterImpl::forward(const Tensor& x) const {
  const ForwardMemoryScope memory(x);
  require_image("x", x, config().in_channels, adapter_->parameters().front());
  const int64_t factor = config().downscale_factor;
  require<TensorError>(x.size(2) % factor == 0 && x.size(3) % factor == 0,
                       "x: expected height and width that downscale_factor = {} divides, got {}", factor,
                       describe(x));
  return adapter_->forward(x);
}

}  // namespace diffusers

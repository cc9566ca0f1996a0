#include <cmath>
#include <numbers>
#include <utility>

#include <diffusers/training/learned_log_variance.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "models/checks.h"
#include "models/model_config.h"

namespace diffusers {

template <class Visitor>
void visit_fields(LearnedLogVarianceConfig& config, Visitor&& visit) {
  visit("type", config.type);
  visit("num_train_timesteps", config.num_train_timesteps);
  visit("logvar_init", config.logvar_init);
  visit("channels", config.channels);
}

void read_model_config(std::string_view json, std::string_view where, LearnedLogVarianceConfig& config,
                       std::string& source, LoadReport& report) {
  read_config_fields(json, where, LearnedLogVarianceImpl::kClassName, config, source, report);
}

std::string write_model_config(const LearnedLogVarianceConfig& config, std::string_view source) {
  return write_config_fields(config, source, LearnedLogVarianceImpl::kClassName, {});
}

LearnedLogVarianceImpl::LearnedLogVarianceImpl(LearnedLogVarianceConfig config)
    : ModelImpl(std::move(config)) {
  build_model(kClassName, [&] { reset(); });
}

void LearnedLogVarianceImpl::reset() {
  const LearnedLogVarianceConfig& c = config();
  if (c.type == LogVarianceType::kTable) {
    require_positive("num_train_timesteps", c.num_train_timesteps, INT32_MAX);
    require<ConfigError>(std::isfinite(c.logvar_init), "logvar_init is {}, expected a finite number",
                         c.logvar_init);
    logvar_ = register_parameter("logvar", at::full({c.num_train_timesteps}, c.logvar_init, at::kFloat));
    return;
  }
  require<ConfigError>(c.type == LogVarianceType::kFourier,
                       "type is \"{}\", expected \"table\" or \"fourier\"", enum_name(c.type));
  require_positive("channels", c.channels);
  constexpr double kTwoPi = 2 * std::numbers::pi;
  const bool is_loaded = layers::SkipInitGuard::active();
  freqs_ = register_buffer("freqs", is_loaded ? at::empty({c.channels}) : kTwoPi * at::randn({c.channels}));
  phases_ = register_buffer("phases", is_loaded ? at::empty({c.channels}) : kTwoPi * at::rand({c.channels}));
  weight_ = register_parameter("weight", at::zeros({c.channels}));
}

Tensor LearnedLogVarianceImpl::forward(const Tensor& timesteps_or_c_noise) const {
  const Tensor& x = timesteps_or_c_noise;
  require<TensorError>(x.defined() && x.dim() == 1,
                       "LearnedLogVariance: the input is {}, expected one number for each sample",
                       describe(x));
  if (logvar_.defined()) {
    require<TensorError>(at::isIntegralType(x.scalar_type(), /*includeBool=*/false),
                         "LearnedLogVariance: the timesteps are {}, expected integers for a table",
                         describe(x));
    // LibTorch would read negative indices from the end. A check on a CUDA tensor would stall the device.
    require<TensorError>(
        !x.is_cpu() || x.numel() == 0 ||
            (x.min().item<int64_t>() >= 0 && x.max().item<int64_t>() < config().num_train_timesteps),
        "LearnedLogVariance: a timestep is outside of the table's 0 to {}", config().num_train_timesteps - 1);
    return logvar_.index({x.to(at::kLong)});
  }
  const Tensor angles = x.to(weight_.scalar_type()).unsqueeze(1) * freqs_ + phases_;
  // A product and a sum, as autocast would compute a matrix product in half precision.
  return (angles.cos() * std::numbers::sqrt2 * weight_).sum(1);
}

}  // namespace diffusers

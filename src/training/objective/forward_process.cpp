#include "training/objective/forward_process.h"

#include <ATen/ATen.h>

#include "core/require.h"
#include "training/objective/scheduled_process.h"
#include "training/objective/snr_weights.h"

namespace diffusers {
inline namespace internal {

Tensor ForwardProcess::model_input(const Tensor& x_t, const Tensor&) const { return x_t; }

Tensor ForwardProcess::model_time(const Tensor& t) const { return t; }

Tensor ForwardProcess::bound_weight(const Tensor&) const { return {}; }

bool ForwardProcess::draws_times_first() const { return false; }

std::string_view ForwardProcess::log_sigma_reason() const { return {}; }

std::optional<ForwardProcess::Shares> ForwardProcess::shares() const { return std::nullopt; }

Tensor ScheduledProcess::log_variance_time(const Tensor& t) const {
  return t.to(at::kFloat) / static_cast<double>(scheduler().num_train_timesteps());
}

std::shared_ptr<const ForwardProcess> make_forward_process(const Scheduler& scheduler,
                                                           const DiffusionLossOptions& options) {
  validate_loss_options(options);
  const PredictionType prediction_type = scheduler.prediction_type();
  require<ConfigError>(prediction_type != PredictionType::kOriginalSample,
                       "prediction_type is \"{}\": there is no training objective for it",
                       enum_name(prediction_type));
  if (prediction_type == PredictionType::kFlowPrediction)
    return std::make_shared<FlowProcess>(scheduler, options);
  return std::make_shared<VariancePreservingProcess>(scheduler, prediction_type, options);
}

void check_timesteps(const Tensor& timesteps, int64_t num_train_timesteps, bool is_continuous,
                     const char* where) {
  require<TensorError>(
      timesteps.defined() && (at::isIntegralType(timesteps.scalar_type(), /*includeBool=*/false) ||
                              (is_continuous && at::isFloatingType(timesteps.scalar_type()))),
      "{}: timesteps must be an integral tensor, got {}", where, describe(timesteps));
  // A range check on a CUDA tensor would stall the device.
  if (!timesteps.is_cpu() || timesteps.numel() == 0) return;
  const auto low = timesteps.min().item<double>();
  const auto high = timesteps.max().item<double>();
  // Flow matching reaches T itself.
  const auto end = static_cast<double>(is_continuous ? num_train_timesteps : num_train_timesteps - 1);
  require<TensorError>(low >= 0 && high <= end, "{}: timesteps run from {} to {}, the scheduler has 0 to {}",
                       where, low, high, end);
}

}  // namespace internal
}  // namespace diffusers

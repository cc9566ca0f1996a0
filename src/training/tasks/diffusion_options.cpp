#include "training/tasks/diffusion_options.h"

#include <array>
#include <cmath>

#include "core/config_json.h"
#include "core/json.h"
#include "core/option_effects.h"
#include "core/require.h"

namespace diffusers {
inline namespace internal {
namespace {

/// The options of the objective and of the sampler have their own tables. The options of the labels depend on
/// the model, so ClassLabels checks them.
constexpr std::array<OptionEffect<DiffusionTaskOptions>, 2> kTaskOptionEffects{{
    {"pyramid_noise_discount", [](const auto& o) { return o.pyramid_noise_iterations > 0; },
     "pyramid_noise_iterations above 0"},
    {"logvar_init", [](const auto& o) { return o.learned_log_variance == LogVarianceType::kTable; },
     "learned_log_variance \"table\""},
}};

}  // namespace

void validate_task_options(const DiffusionTaskOptions& options) {
  require_options_with_effect(options, kTaskOptionEffects);
  require<ConfigError>(options.pyramid_noise_iterations >= 0,
                       "pyramid_noise_iterations is {}, expected 0 or more",
                       options.pyramid_noise_iterations);
  require<ConfigError>(options.pyramid_noise_discount >= 0 && options.pyramid_noise_discount <= 1,
                       "pyramid_noise_discount is {}, expected 0 to 1", options.pyramid_noise_discount);
  require<ConfigError>(std::isfinite(options.logvar_init), "logvar_init is {}, expected a finite number",
                       options.logvar_init);
}

void require_possible_times(const DiffusionTaskOptions& options, const ForwardProcess& process) {
  const std::string_view prediction_type = enum_name(process.prediction_type());
  if (process.has_discrete_times()) {
    require<ConfigError>(
        !options.continuous_timesteps,
        "continuous_timesteps is true, but prediction_type is \"{}\", whose noise schedule has "
        "discrete timesteps; flow_prediction has continuous ones",
        prediction_type);
    return;
  }
  require<ConfigError>(options.timestep_sampling != TimestepSampling::kLossSecondMoment,
                       "timestep_sampling is \"loss_second_moment\", which needs discrete timesteps, but "
                       "prediction_type is \"{}\", whose timesteps are continuous",
                       prediction_type);
  require<ConfigError>(options.learned_log_variance != LogVarianceType::kTable,
                       "learned_log_variance is \"table\", which needs discrete timesteps, but "
                       "prediction_type is \"{}\", whose timesteps are continuous; use \"fourier\"",
                       prediction_type);
}

DiffusionLossOptions loss_options(const DiffusionTaskOptions& options, const TrainingConfig& config) {
  return {.loss_type = config.loss_type,
          .snr_gamma = config.snr_gamma,
          .huber_schedule = config.huber_schedule,
          .huber_c = config.huber_c,
          .reduction = LossReduction::kNone,
          .weighting = options.weighting,
          .p2_gamma = options.p2_gamma,
          .p2_k = options.p2_k,
          .sigma_data = options.sigma_data,
          .l_simple_weight = options.l_simple_weight,
          .original_elbo_weight = options.original_elbo_weight,
          .vlb_weight = options.vlb_weight};
}

TimestepSamplingOptions sampling_options(const DiffusionTaskOptions& options, const TrainingConfig& config) {
  return {.strategy = options.timestep_sampling,
          .logit_mean = config.logit_mean,
          .logit_std = config.logit_std,
          .mode_scale = config.mode_scale,
          .bias = config.timestep_bias_strategy,
          .bias_multiplier = config.timestep_bias_multiplier,
          .bias_begin = config.timestep_bias_begin,
          .bias_end = config.timestep_bias_end,
          .bias_portion = config.timestep_bias_portion,
          .continuous = options.continuous_timesteps};
}

std::string diffusion_task_json(const Scheduler& scheduler, const DiffusionTaskOptions& options) {
  return dump_json({{"_class_name", "DiffusionTask"},
                    {"scheduler", parse_json(scheduler.config_json(), "config_json() of the scheduler")},
                    {"options", config_json::fields_to_json(options)}});
}

}  // namespace internal
}  // namespace diffusers

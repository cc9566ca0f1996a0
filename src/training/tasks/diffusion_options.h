#pragma once

// The options of a DiffusionTask: their fields, their checks, and the options of its objective and sampler.

#include <string>

#include <diffusers/schedulers/scheduler.h>
#include <diffusers/training/diffusion_task_options.h>
#include <diffusers/training/training_config.h>

#include "training/objective/forward_process.h"

namespace diffusers {
inline namespace internal {

template <class Visitor>
void visit_fields(DiffusionTaskOptions& options, Visitor&& visit) {
  visit("weighting", options.weighting);
  visit("p2_gamma", options.p2_gamma);
  visit("p2_k", options.p2_k);
  visit("sigma_data", options.sigma_data);
  visit("l_simple_weight", options.l_simple_weight);
  visit("original_elbo_weight", options.original_elbo_weight);
  visit("vlb_weight", options.vlb_weight);
  visit("timestep_sampling", options.timestep_sampling);
  visit("continuous_timesteps", options.continuous_timesteps);
  visit("pyramid_noise_iterations", options.pyramid_noise_iterations);
  visit("pyramid_noise_discount", options.pyramid_noise_discount);
  visit("learned_log_variance", options.learned_log_variance);
  visit("logvar_init", options.logvar_init);
  visit("class_conditional", options.class_conditional);
  visit("class_dropout_prob", options.class_dropout_prob);
}

/// Checks the options that depend neither on TrainingConfig nor on the model.
/// @throws ConfigError naming an option that is out of range or has no effect
void validate_task_options(const DiffusionTaskOptions& options);

/// Checks the options that need discrete or continuous times.
/// @throws ConfigError naming the option
void require_possible_times(const DiffusionTaskOptions& options, const ForwardProcess& process);

/// Returns the options of the objective.
DiffusionLossOptions loss_options(const DiffusionTaskOptions& options, const TrainingConfig& config);

/// Returns the options of the timestep sampler.
TimestepSamplingOptions sampling_options(const DiffusionTaskOptions& options, const TrainingConfig& config);

/// Returns the scheduler's config and the options as a JSON object.
std::string diffusion_task_json(const Scheduler& scheduler, const DiffusionTaskOptions& options);

}  // namespace internal
}  // namespace diffusers

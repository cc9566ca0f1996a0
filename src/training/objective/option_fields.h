#pragma once

// The fields of the options of the objective and of the timestep sampler, under the names of the training
// flags, and tables of the options that have an effect only with other options.

#include <array>

#include <diffusers/training/loss_options.h>
#include <diffusers/training/timestep_sampler.h>

#include "core/option_effects.h"

namespace diffusers {
inline namespace internal {

template <class Visitor>
void visit_fields(DiffusionLossOptions& options, Visitor&& visit) {
  visit("loss_type", options.loss_type);
  visit("snr_gamma", options.snr_gamma);
  visit("huber_schedule", options.huber_schedule);
  visit("huber_c", options.huber_c);
  visit("reduction", options.reduction);
  visit("weighting", options.weighting);
  visit("p2_gamma", options.p2_gamma);
  visit("p2_k", options.p2_k);
  visit("sigma_data", options.sigma_data);
  visit("l_simple_weight", options.l_simple_weight);
  visit("original_elbo_weight", options.original_elbo_weight);
  visit("vlb_weight", options.vlb_weight);
}

template <class Visitor>
void visit_fields(TimestepSamplingOptions& options, Visitor&& visit) {
  visit("timestep_sampling", options.strategy);
  visit("logit_mean", options.logit_mean);
  visit("logit_std", options.logit_std);
  visit("mode_scale", options.mode_scale);
  visit("timestep_bias_strategy", options.bias);
  visit("timestep_bias_multiplier", options.bias_multiplier);
  visit("timestep_bias_begin", options.bias_begin);
  visit("timestep_bias_end", options.bias_end);
  visit("timestep_bias_portion", options.bias_portion);
  visit("continuous_timesteps", options.continuous);
}

inline bool has_huber_loss(const DiffusionLossOptions& options) {
  return options.loss_type == LossType::kHuber || options.loss_type == LossType::kSmoothL1;
}

/// The objective itself checks `snr_gamma` and `vlb_weight`, which depend on more than these options.
inline constexpr std::array<OptionEffect<DiffusionLossOptions>, 5> kLossOptionEffects{{
    {"huber_schedule", has_huber_loss, "loss_type \"huber\" or \"smooth_l1\""},
    {"huber_c", has_huber_loss, "loss_type \"huber\" or \"smooth_l1\""},
    {"p2_gamma", [](const auto& o) { return o.weighting == LossWeighting::kP2; }, "weighting \"p2\""},
    {"p2_k", [](const auto& o) { return o.weighting == LossWeighting::kP2; }, "weighting \"p2\""},
    {"sigma_data", [](const auto& o) { return o.weighting == LossWeighting::kEdm; }, "weighting \"edm\""},
}};

inline bool is_logit_normal(const TimestepSamplingOptions& options) {
  return options.strategy == TimestepSampling::kLogitNormal;
}
inline bool has_range_bias(const TimestepSamplingOptions& options) {
  return options.bias == TimestepBias::kRange;
}

inline constexpr std::array<OptionEffect<TimestepSamplingOptions>, 7> kSamplingOptionEffects{{
    {"logit_mean", is_logit_normal, "timestep_sampling \"logit_normal\""},
    {"logit_std", is_logit_normal, "timestep_sampling \"logit_normal\""},
    {"mode_scale", [](const auto& o) { return o.strategy == TimestepSampling::kMode; },
     "timestep_sampling \"mode\""},
    {"timestep_bias_multiplier", [](const auto& o) { return o.bias != TimestepBias::kNone; },
     "a timestep_bias_strategy"},
    {"timestep_bias_begin", has_range_bias, "timestep_bias_strategy \"range\""},
    {"timestep_bias_end", has_range_bias, "timestep_bias_strategy \"range\""},
    {"timestep_bias_portion",
     [](const auto& o) { return o.bias == TimestepBias::kEarlier || o.bias == TimestepBias::kLater; },
     "timestep_bias_strategy \"earlier\" or \"later\""},
}};

}  // namespace internal
}  // namespace diffusers

#pragma once

// The table of sweep_test.cpp: for each scheduler class the options that change the path of a run, the config
// keys that keep their defaults, and the refusals that docs/schedulers.md documents.

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "core/json.h"

namespace diffusers::test {

/// The values of one option: config keys that are set together. A key "step.eta" is an option of `step`,
/// "set.mu" one of `set_timesteps`.
using SweepAxis = std::vector<Json>;

struct SweepClass {
  std::string name;
  std::vector<SweepAxis> axes;
  /// Config keys that do not affect the path, or that are equivalent to keys that are varied.
  std::vector<std::string> fixed;
  /// Parts of the messages with which the class may refuse a combination before the first step.
  std::vector<std::string> refusals = {};
  /// Number of combinations that are run unless DIFFUSERS_SWEEP is set.
  int64_t sample = 400;
};

inline void PrintTo(const SweepClass& each, std::ostream* out) { *out << each.name; }

inline SweepAxis values_of_key(const std::string& key, const std::vector<Json>& values) {
  SweepAxis axis;
  for (const Json& value : values) axis.push_back({{key, value}});
  return axis;
}
inline SweepAxis flag(const std::string& key) { return values_of_key(key, {false, true}); }

inline std::vector<SweepClass> sweep_classes() {
  const Json none = Json::object();
  const SweepAxis betas{{{"beta_schedule", "linear"}, {"beta_start", 0.0001}, {"beta_end", 0.02}},
                        {{"beta_schedule", "scaled_linear"}, {"beta_start", 0.00085}, {"beta_end", 0.012}},
                        {{"beta_schedule", "squaredcos_cap_v2"}},
                        {{"beta_schedule", "sigmoid"}, {"beta_start", 0.0001}, {"beta_end", 0.02}},
                        {{"beta_schedule", "laplace"}}};
  SweepAxis betas_and_exp = betas;
  betas_and_exp.push_back({{"beta_schedule", "exp"}});
  const SweepAxis spacing = values_of_key("timestep_spacing", {"linspace", "leading", "trailing"});
  const SweepAxis offset = values_of_key("steps_offset", {0, 1});
  const SweepAxis zero_snr = flag("rescale_betas_zero_snr");
  const SweepAxis final_sigmas = values_of_key("final_sigmas_type", {"zero", "sigma_min"});
  const SweepAxis spread{
      none, {{"use_karras_sigmas", true}}, {{"use_exponential_sigmas", true}}, {{"use_beta_sigmas", true}}};
  // The source of a solver's noise levels: the betas, or a flow.
  SweepAxis levels = spread;
  for (const double shift : {1.0, 3.0}) levels.push_back({{"use_flow_sigmas", true}, {"flow_shift", shift}});
  levels.push_back({{"use_flow_sigmas", true}, {"use_exponential_sigmas", true}});  // refused
  const auto shifted = [](SweepAxis axis, const std::vector<std::string>& types) {
    for (const std::string& type : types)
      axis.push_back({{"use_flow_sigmas", true},
                      {"use_dynamic_shifting", true},
                      {"time_shift_type", type},
                      {"set.mu", 0.8}});
    return axis;
  };
  SweepAxis multistep_levels = shifted(levels, {"exponential"});
  multistep_levels.push_back({{"use_lu_lambdas", true}});
  SweepAxis unipc_levels = shifted(levels, {"exponential", "linear"});
  unipc_levels.push_back({{"use_flow_sigmas", true}, {"shift_terminal", 0.1}});
  unipc_levels.push_back({{"use_flow_sigmas", true}, {"use_karras_sigmas", true}});
  const SweepAxis clip{{{"clip_sample", false}}, {{"clip_sample", true}, {"clip_sample_range", 2.0}}};
  const SweepAxis thresholding{{{"thresholding", false}},
                               {{"thresholding", true}, {"sample_max_value", 3.0}}};
  SweepAxis clip_or_threshold = clip;
  clip_or_threshold.push_back({{"clip_sample", false}, {"thresholding", true}, {"sample_max_value", 3.0}});
  const SweepAxis lambda_clip{none, {{"lambda_min_clipped", -5.1}}};
  const SweepAxis learned{none, {{"variance_type", "learned_range"}}};
  const SweepAxis order = values_of_key("solver_order", {1, 2, 3});
  const SweepAxis churn{none, {{"step.s_churn", 5.0}, {"step.s_noise", 1.003}}};
  const auto prediction = [](const std::vector<Json>& types) {
    return values_of_key("prediction_type", types);
  };
  const SweepAxis three = prediction({"epsilon", "sample", "v_prediction"});
  const SweepAxis two = prediction({"epsilon", "v_prediction"});
  const SweepAxis four = prediction({"epsilon", "sample", "v_prediction", "flow_prediction"});
  const SweepAxis family =
      values_of_key("algorithm_type", {"dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"});
  const SweepAxis solver_type = values_of_key("solver_type", {"midpoint", "heun"});

  const std::vector<std::string> base{"num_train_timesteps", "trained_betas"};
  const auto with = [](std::vector<std::string> keys, const std::vector<std::string>& more) {
    keys.insert(keys.end(), more.begin(), more.end());
    return keys;
  };
  const std::string no_signal = "x_0 would be infinite";
  const std::string beyond = "steps_offset is 1, with which";
  const std::string ratio = "dynamic_thresholding_ratio";
  const std::string flow_spread = "use_flow_sigmas cannot be combined with";
  const std::string noise_of_flow = "cannot take prediction_type \"flow_prediction\"";
  const std::string no_zero = "final_sigmas_type \"zero\" cannot be reached";
  const std::string no_third = "solver_order 3 does not exist";
  const std::vector<std::string> edm_fixed{"sigma_data", "num_train_timesteps", "rho"};
  const SweepAxis edm_range{none, {{"sigma_min", 0.02}, {"sigma_max", 800.0}}};
  const SweepAxis edm_schedule = values_of_key("sigma_schedule", {"karras", "exponential"});

  return {
      {.name = "DDPMScheduler",
       .axes = {betas, three, clip_or_threshold, spacing, offset, zero_snr,
                values_of_key("variance_type", {"fixed_small", "fixed_small_log", "fixed_large",
                                                "fixed_large_log", "learned", "learned_range"})},
       .fixed = with(base, {ratio}),
       .refusals = {no_signal, beyond},
       .sample = 1000},
      {.name = "DDIMScheduler",
       .axes = {betas, three, clip_or_threshold, spacing, offset, zero_snr, flag("set_alpha_to_one"),
                values_of_key("step.eta", {0.0, 0.5, 1.0}), flag("step.use_clipped_model_output")},
       .fixed = with(base, {ratio}),
       .refusals = {no_signal, beyond},
       .sample = 1000},
      {.name = "DDIMInverseScheduler",
       .axes = {betas, three, clip, spacing, offset, zero_snr, flag("set_alpha_to_one")},
       .fixed = base,
       .refusals = {beyond, "expected leading or trailing", "set_alpha_to_one must be false"}},
      {.name = "PNDMScheduler",
       .axes = {betas, two, spacing, offset, flag("set_alpha_to_one"), flag("skip_prk_steps")},
       .fixed = base,
       .refusals = {beyond, "expected at least 4 unless skip_prk_steps is true"}},
      {.name = "LMSDiscreteScheduler",
       .axes = {betas, three, spread, spacing, offset, values_of_key("step.order", {1, 2, 3, 4})},
       .fixed = base,
       .sample = 300},
      {.name = "EulerDiscreteScheduler",
       .axes = {betas,
                prediction({"epsilon", "sample", "original_sample", "v_prediction"}),
                spread,
                spacing,
                offset,
                zero_snr,
                final_sigmas,
                churn,
                values_of_key("interpolation_type", {"linear", "log_linear"}),
                values_of_key("timestep_type", {"discrete", "continuous"}),
                {none, {{"sigma_min", 0.05}, {"sigma_max", 10.0}}}},
       .fixed = base,
       .sample = 1000},
      {.name = "EulerAncestralDiscreteScheduler",
       .axes = {betas, two, spacing, offset, zero_snr},
       .fixed = base},
      {.name = "HeunDiscreteScheduler",
       .axes = {betas_and_exp, three, spread, clip, spacing, offset},
       .fixed = base,
       .sample = 200},
      {.name = "KDPM2DiscreteScheduler",
       .axes = {betas, two, spread, spacing, offset},
       .fixed = base,
       .sample = 200},
      {.name = "KDPM2AncestralDiscreteScheduler",
       .axes = {betas, two, spread, spacing, offset},
       .fixed = base,
       .sample = 200},
      {.name = "DPMSolverMultistepScheduler",
       .axes = {betas, four, order, thresholding, family, solver_type, flag("lower_order_final"),
                flag("euler_at_final"), multistep_levels, final_sigmas, lambda_clip, learned, spacing, offset,
                zero_snr},
       .fixed = with(base, {ratio}),
       .refusals = {flow_spread, noise_of_flow, no_zero, no_third},
       .sample = 2500},
      {.name = "DPMSolverMultistepInverseScheduler",
       .axes = {betas, four, order, thresholding, family, solver_type, flag("lower_order_final"),
                flag("euler_at_final"), levels, lambda_clip, learned, spacing, offset},
       .fixed = with(base, {ratio}),
       .refusals = {flow_spread, noise_of_flow, no_third, "whose noise has no variance"},
       .sample = 1500},
      {.name = "DPMSolverSinglestepScheduler",
       .axes = {betas, four, order, thresholding, family, solver_type, flag("lower_order_final"),
                shifted(levels, {"exponential"}), final_sigmas, lambda_clip, learned},
       .fixed = with(base, {ratio}),
       .refusals = {flow_spread, noise_of_flow, no_zero, no_third, "algorithm_type is \"sde-dpmsolver\""},
       .sample = 1500},
      {.name = "DPMSolverSDEScheduler",
       .axes = {betas, two, spread, spacing, offset, {none, {{"step.s_noise", 1.003}}}},
       .fixed = with(base, {"noise_sampler_seed"}),
       .sample = 120},
      {.name = "DEISMultistepScheduler",
       .axes = {betas, four, order, thresholding, flag("lower_order_final"), shifted(levels, {"exponential"}),
                spacing, offset},
       // Other algorithm and solver types are converted to those of the class.
       .fixed = with(base, {ratio, "algorithm_type", "solver_type"}),
       .refusals = {flow_spread},
       .sample = 1000},
      {.name = "UniPCMultistepScheduler",
       .axes = {betas,
                four,
                values_of_key("solver_order", {1, 2, 3, 4}),
                thresholding,
                flag("predict_x0"),
                values_of_key("solver_type", {"bh1", "bh2"}),
                flag("lower_order_final"),
                values_of_key("disable_corrector", {Json::array(), {0, 1}}),
                unipc_levels,
                final_sigmas,
                spacing,
                offset,
                zero_snr,
                {none, {{"sigma_min", 0.05}, {"sigma_max", 10.0}}}},
       .fixed = with(base, {ratio, "solver_p"}),
       .refusals = {flow_spread, noise_of_flow, "lower_order_final = false needs final_sigmas_type"},
       .sample = 2500},
      {.name = "SASolverScheduler",
       .axes = {betas, four, values_of_key("predictor_order", {1, 2, 3, 4}),
                values_of_key("corrector_order", {1, 2, 3, 4}), thresholding,
                values_of_key("algorithm_type", {"data_prediction", "noise_prediction"}),
                flag("lower_order_final"), levels, lambda_clip, learned, spacing, offset},
       // A function, which a config file cannot store.
       .fixed = with(base, {ratio, "tau_func"}),
       .refusals = {flow_spread, noise_of_flow},
       .sample = 1000},
      {.name = "LCMScheduler",
       .axes = {betas, three, clip_or_threshold, zero_snr,
                values_of_key("original_inference_steps", {50, 1000})},
       .fixed =
           with(base, {ratio, "set_alpha_to_one", "steps_offset", "timestep_spacing", "timestep_scaling"}),
       .refusals = {no_signal, "expected at most original_inference_steps"}},
      {.name = "TCDScheduler",
       .axes = {betas, three, zero_snr, values_of_key("original_inference_steps", {50, 1000}),
                values_of_key("step.eta", {0.0, 0.3, 1.0})},
       .fixed = with(base, {ratio, "clip_sample", "clip_sample_range", "thresholding", "sample_max_value",
                            "set_alpha_to_one", "steps_offset", "timestep_spacing", "timestep_scaling"}),
       .refusals = {no_signal, "expected at most original_inference_steps"}},
      {.name = "IPNDMScheduler", .axes = {}, .fixed = base},
      {.name = "EDMEulerScheduler",
       .axes = {edm_schedule, two, final_sigmas, edm_range, churn},
       .fixed = edm_fixed},
      {.name = "EDMDPMSolverMultistepScheduler",
       .axes = {edm_schedule, two, final_sigmas, edm_range, order, thresholding,
                values_of_key("algorithm_type", {"dpmsolver++", "sde-dpmsolver++"}), solver_type,
                flag("lower_order_final"), flag("euler_at_final")},
       .fixed = with(edm_fixed, {ratio})},
      {.name = "FlowMatchEulerDiscreteScheduler",
       .axes = {values_of_key("shift", {1.0, 3.0}),
                {none,
                 {{"use_dynamic_shifting", true}, {"time_shift_type", "exponential"}, {"set.mu", 0.8}},
                 {{"use_dynamic_shifting", true}, {"time_shift_type", "linear"}, {"set.mu", 0.8}}},
                flag("invert_sigmas"),
                values_of_key("shift_terminal", {nullptr, 0.1}),
                spread,
                flag("stochastic_sampling")},
       .fixed = {"num_train_timesteps", "base_shift", "max_shift", "base_image_seq_len",
                 "max_image_seq_len"}},
      {.name = "FlowMatchHeunDiscreteScheduler",
       .axes = {values_of_key("shift", {1.0, 3.0}), churn},
       .fixed = {"num_train_timesteps"}},
      {.name = "CMStochasticIterativeScheduler",
       .axes = {values_of_key("num_train_timesteps", {40, 1000}), flag("clip_denoised")},
       .fixed = {"sigma_min", "sigma_max", "sigma_data", "s_noise", "rho"},
       .refusals = {"expected at most num_train_timesteps = 40"}},
      {.name = "ScoreSdeVeScheduler",
       .axes = {{none, {{"sigma_min", 0.1}, {"sigma_max", 50.0}}}},
       .fixed = {"num_train_timesteps", "snr", "sampling_eps", "correct_steps"}},
      {.name = "RePaintScheduler",
       .axes = {betas, flag("clip_sample"), values_of_key("eta", {0.0, 0.5, 1.0})},
       .fixed = base,
       .sample = 100},
      {.name = "UnCLIPScheduler",
       .axes = {prediction({"epsilon", "sample"}), clip,
                values_of_key("variance_type", {"fixed_small_log", "learned_range"})},
       .fixed = {"num_train_timesteps", "beta_schedule"},
       .refusals = {"expected at least 2"}},
  };
}

}  // namespace diffusers::test

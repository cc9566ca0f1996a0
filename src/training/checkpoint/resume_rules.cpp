#include "training/checkpoint/resume_rules.h"

#include <algorithm>
#include <array>

#include "core/require.h"
#include "io/posix_file.h"

namespace diffusers {
inline namespace internal {
namespace {

/// Options of schedulers that have no effect on `add_noise` and the training targets.
constexpr std::array<std::string_view, 36> kSamplingOptions{"algorithm_type",
                                                            "clip_denoised",
                                                            "clip_sample",
                                                            "clip_sample_range",
                                                            "correct_steps",
                                                            "corrector_order",
                                                            "disable_corrector",
                                                            "dynamic_thresholding_ratio",
                                                            "eta",
                                                            "euler_at_final",
                                                            "final_sigmas_type",
                                                            "lambda_min_clipped",
                                                            "lower_order_final",
                                                            "noise_sampler_seed",
                                                            "original_inference_steps",
                                                            "predict_x0",
                                                            "predictor_order",
                                                            "s_noise",
                                                            "sample_max_value",
                                                            "sampling_eps",
                                                            "set_alpha_to_one",
                                                            "shift_terminal",
                                                            "skip_prk_steps",
                                                            "snr",
                                                            "solver_order",
                                                            "solver_p",
                                                            "solver_type",
                                                            "steps_offset",
                                                            "stochastic_sampling",
                                                            "tau_func",
                                                            "thresholding",
                                                            "timestep_spacing",
                                                            "use_beta_sigmas",
                                                            "use_exponential_sigmas",
                                                            "use_karras_sigmas",
                                                            "use_lu_lambdas"};

bool is_left_out(std::string_view key) {
  if (key.starts_with('_')) return key != "_class_name";
  return std::find(kSamplingOptions.begin(), kSamplingOptions.end(), key) != kSamplingOptions.end();
}

}  // namespace

const std::vector<ResumeRule>& resume_rules() {
  using enum OnResume;
  constexpr std::string_view kLength =
      "a training may be made longer; a learning rate that depends on the length follows the new one";
  constexpr std::string_view kRounding = "it changes the rounding of sums alone";
  static const std::vector<ResumeRule> kRules{
      {"output_dir", kNoInfluence},
      {"seed", kCompared, "where it is not set, that of the checkpoint is taken"},
      {"resolution", kCompared},
      {"train_batch_size", kCompared, "the position in the data depends on it"},
      {"num_epochs", kFree, kLength},
      {"max_train_steps", kFree, kLength},
      {"gradient_accumulation_steps", kCompared, "the position in the data depends on it"},
      {"gradient_checkpointing", kFree, "it trades time for memory"},
      {"fused_backward_pass", kFree, "it saves memory, with the same results"},
      {"learning_rate", kCompared},
      {"lr_scheduler", kCompared},
      {"lr_warmup_steps", kCompared},
      {"snr_gamma", kCompared},
      {"noise_offset", kCompared},
      {"input_perturbation", kCompared},
      {"mixed_precision", kCompared},
      {"max_grad_norm", kCompared},
      {"use_ema", kCompared},
      {"ema_type", kCompared},
      {"use_ema_warmup", kCompared},
      {"ema_inv_gamma", kCompared},
      {"ema_power", kCompared},
      {"ema_max_decay", kCompared},
      {"ema_min_decay", kCompared},
      {"ema_update_after_step", kCompared},
      {"adam_beta1", kCompared},
      {"adam_beta2", kCompared},
      {"adam_weight_decay", kCompared},
      {"adam_epsilon", kCompared},
      {"optimizer", kCompared},
      {"checkpointing_steps", kNoInfluence},
      {"checkpoints_total_limit", kNoInfluence},
      {"resume_from_checkpoint", kNoInfluence},
      {"background_checkpoints", kNoInfluence},
      {"validation_steps", kNoInfluence, "previews and validations draw from generators of their own"},
      {"logging_steps", kNoInfluence},
      {"progress_bar", kNoInfluence},
      {"dataloader_num_workers", kNoInfluence, "the order of the data does not depend on it"},
      {"cpu_data_parallel", kFree,
       "it changes the rounding of sums alone; 0 keeps the number of the checkpoint"},
      {"loss_type", kCompared},
      {"huber_schedule", kCompared},
      {"huber_c", kCompared},
      {"logit_mean", kCompared},
      {"logit_std", kCompared},
      {"mode_scale", kCompared},
      {"timestep_bias_strategy", kCompared},
      {"timestep_bias_multiplier", kCompared},
      {"timestep_bias_begin", kCompared},
      {"timestep_bias_end", kCompared},
      {"timestep_bias_portion", kCompared},
      {"train_only", kCompared},
      {"freeze", kCompared},
      {"no_decay", kCompared},
      {"no_weight_decay_on_bias_and_norm", kCompared},
      {"lr_factors", kCompared},
      {"adam_amsgrad", kCompared},
      {"sgd_momentum", kCompared},
      {"sgd_dampening", kCompared},
      {"sgd_nesterov", kCompared},
      {"adafactor_beta2_decay", kCompared},
      {"adafactor_eps1", kCompared},
      {"adafactor_eps2", kCompared},
      {"adafactor_d", kCompared},
      {"post_hoc_ema_sigma_rels", kCompared, "an average cannot begin in the middle of a training"},
      {"post_hoc_ema_steps", kNoInfluence},
      {"tensorboard", kNoInfluence},
      {"logging_dir", kNoInfluence},
      {"report", kNoInfluence},
      {"validation_samples", kNoInfluence},
      {"validation_bins", kNoInfluence},
      {"lr_num_cycles", kCompared},
      {"lr_power", kCompared},
      {"lr_step_rules", kCompared},
      {"max_nonfinite_steps", kFree, "it says when a training is given up"},
      {"overwrite_output_dir", kNoInfluence, "a training that is resumed overwrites nothing"},
      {"deterministic", kFree, kRounding},
      {"handle_signals", kNoInfluence},
  };
  return kRules;
}

void require_same_options(const Json& saved, const Json& ours, std::string_view where) {
  for (const ResumeRule& rule : resume_rules()) {
    const std::string key(rule.key);
    if (rule.rule != OnResume::kCompared || !saved.contains(key) || !ours.contains(key)) continue;
    require<ConfigError>(saved[key] == ours[key],
                         "{} is {}, but the checkpoint was trained with {} ({}); resume with that value, or "
                         "start a new training from the weights",
                         key, json_excerpt(ours[key]), json_excerpt(saved[key]), escaped(where));
  }
}

Json with_moved_options(Json saved_task, const Json& saved_fields, const Json& our_task) {
  if (!saved_task.is_object() || saved_task.contains("options") || !our_task.contains("options"))
    return saved_task;
  for (const auto& option : our_task["options"].items())
    if (saved_fields.contains(option.key())) saved_task["options"][option.key()] = saved_fields[option.key()];
  return saved_task;
}

void require_same_config(const Json& saved, const Json& ours, std::string_view owner,
                         std::string_view where) {
  if (!saved.is_object() || !ours.is_object()) return;
  for (const auto& [key, value] : ours.items()) {
    const auto found = saved.find(key);
    if (found == saved.end() || is_left_out(key)) continue;
    if (value.is_object() && found->is_object()) {
      require_same_config(*found, value, "the " + key, where);
      continue;
    }
    require<ConfigError>(*found == value, "{} of {} is {}, but the checkpoint was trained with {} ({})", key,
                         owner, json_excerpt(value), json_excerpt(*found), escaped(where));
  }
}

}  // namespace internal
}  // namespace diffusers

#include "training/option_effects.h"

#include <string_view>

namespace diffusers {
inline namespace internal {
namespace {

using Config = TrainingConfig;

bool has_betas(const Config& c) {
  return c.optimizer == OptimizerType::kAdamW || c.optimizer == OptimizerType::kAdam ||
         c.optimizer == OptimizerType::kLion;
}
bool is_adam(const Config& c) {
  return c.optimizer == OptimizerType::kAdamW || c.optimizer == OptimizerType::kAdam;
}
bool is_sgd(const Config& c) { return c.optimizer == OptimizerType::kSGD; }
bool is_adafactor(const Config& c) { return c.optimizer == OptimizerType::kAdafactor; }

bool has_ema(const Config& c) { return c.use_ema; }
bool has_ema_model(const Config& c) { return c.use_ema && c.ema_type == EMAType::kEmaModel; }
bool has_warmup_decay(const Config& c) { return has_ema_model(c) && c.use_ema_warmup; }

bool has_huber_loss(const Config& c) {
  return c.loss_type == LossType::kHuber || c.loss_type == LossType::kSmoothL1;
}
bool has_bias(const Config& c) { return c.timestep_bias_strategy != TimestepBias::kNone; }
bool has_range_bias(const Config& c) { return c.timestep_bias_strategy == TimestepBias::kRange; }

/// 0 says that there is no warm-up, which is true of every schedule.
bool may_have_warmup(const Config& c) {
  return c.lr_warmup_steps == 0 || (c.lr_scheduler != "constant" && c.lr_scheduler != "piecewise_constant");
}

/// Python's scripts have a default of 0.9 or 0.95 and always pass it on.
bool may_change_beta1(const Config& c) { return has_betas(c) || c.adam_beta1 == 0.9; }

}  // namespace

const std::vector<OptionEffect<TrainingConfig>>& option_effects() {
  constexpr std::string_view kBetas = R"(optimizer "adamw", "adam" or "lion")";
  constexpr std::string_view kAdam = R"(optimizer "adamw" or "adam")";
  constexpr std::string_view kSgd = R"(optimizer "sgd")";
  constexpr std::string_view kAdafactor = R"(optimizer "adafactor")";
  constexpr std::string_view kEma = "use_ema";
  constexpr std::string_view kEmaModel = R"(use_ema and ema_type "ema_model")";
  constexpr std::string_view kWarmup = R"(use_ema, use_ema_warmup and ema_type "ema_model")";
  constexpr std::string_view kHuber = R"(loss_type "huber" or "smooth_l1")";
  constexpr std::string_view kRangeBias = R"(timestep_bias_strategy "range")";
  static const std::vector<OptionEffect<TrainingConfig>> kEffects{
      {"output_dir"},
      {"seed"},
      {"resolution"},
      {"train_batch_size"},
      {"num_epochs"},  // max_train_steps overrides it, as in Python
      {"max_train_steps"},
      {"gradient_accumulation_steps"},
      {"gradient_checkpointing"},
      {"fused_backward_pass"},
      {"learning_rate"},
      {"lr_scheduler"},
      {"lr_warmup_steps", may_have_warmup,
       R"(an lr_scheduler other than "constant" and "piecewise_constant")"},
      {"snr_gamma"},
      {"noise_offset"},
      {"input_perturbation"},
      {"mixed_precision"},
      {"max_grad_norm"},
      {"use_ema"},
      {"ema_type", has_ema, kEma},
      {"use_ema_warmup", has_ema, kEma},
      {"ema_inv_gamma", has_warmup_decay, kWarmup},
      {"ema_power", has_warmup_decay, kWarmup},
      {"ema_max_decay", has_ema, kEma},
      {"ema_min_decay", has_ema_model, kEmaModel},
      {"ema_update_after_step", has_ema_model, kEmaModel},
      {"adam_beta1", may_change_beta1, kBetas},
      {"adam_beta2", has_betas, kBetas},
      {"adam_weight_decay"},
      {"adam_epsilon", is_adam, kAdam},
      {"optimizer"},
      {"checkpointing_steps"},
      {"checkpoints_total_limit"},
      {"resume_from_checkpoint"},
      {"background_checkpoints"},
      {"validation_steps"},
      {"logging_steps"},
      {"progress_bar"},
      {"dataloader_num_workers"},
      {"cpu_data_parallel"},
      {"loss_type"},
      {"huber_schedule", has_huber_loss, kHuber},
      {"huber_c", has_huber_loss, kHuber},
      // The task checks these three against its timestep_sampling.
      {"logit_mean"},
      {"logit_std"},
      {"mode_scale"},
      {"timestep_bias_strategy"},
      {"timestep_bias_multiplier", has_bias, "a timestep_bias_strategy"},
      {"timestep_bias_begin", has_range_bias, kRangeBias},
      {"timestep_bias_end", has_range_bias, kRangeBias},
      {"timestep_bias_portion", [](const Config& c) { return has_bias(c) && !has_range_bias(c); },
       R"(timestep_bias_strategy "earlier" or "later")"},
      {"train_only"},
      {"freeze"},
      {"no_decay"},
      {"no_weight_decay_on_bias_and_norm"},
      {"lr_factors"},
      {"adam_amsgrad", is_adam, kAdam},
      {"sgd_momentum", is_sgd, kSgd},
      {"sgd_dampening", [](const Config& c) { return is_sgd(c) && c.sgd_momentum > 0; },
       R"(optimizer "sgd" and sgd_momentum above 0)"},
      {"sgd_nesterov", is_sgd, kSgd},
      {"adafactor_beta2_decay", is_adafactor, kAdafactor},
      {"adafactor_eps1", is_adafactor, kAdafactor},
      {"adafactor_eps2", is_adafactor, kAdafactor},
      {"adafactor_d", is_adafactor, kAdafactor},
      {"post_hoc_ema_sigma_rels"},
      {"post_hoc_ema_steps", [](const Config& c) { return !c.post_hoc_ema_sigma_rels.empty(); },
       "post_hoc_ema_sigma_rels"},
      {"tensorboard"},
      // A training that overwrites another one removes its event files.
      {"logging_dir", [](const Config& c) { return c.tensorboard || c.overwrite_output_dir; }, "tensorboard"},
      {"report"},
      // The Trainer checks whether there is held-out data, and what validation_steps have to call.
      {"validation_samples"},
      {"validation_bins"},
      {"lr_num_cycles", [](const Config& c) { return c.lr_scheduler == "cosine_with_restarts"; },
       R"(lr_scheduler "cosine_with_restarts")"},
      {"lr_power", [](const Config& c) { return c.lr_scheduler == "polynomial"; },
       R"(lr_scheduler "polynomial")"},
      {"lr_step_rules", [](const Config& c) { return c.lr_scheduler == "piecewise_constant"; },
       R"(lr_scheduler "piecewise_constant")"},
      {"max_nonfinite_steps"},
      {"overwrite_output_dir"},
      {"deterministic"},
      {"handle_signals"},
  };
  return kEffects;
}

}  // namespace internal
}  // namespace diffusers

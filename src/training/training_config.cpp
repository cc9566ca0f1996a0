#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include <diffusers/training/lr_scheduler.h>
#include <diffusers/training/post_hoc_ema.h>
#include <diffusers/training/training_config.h>

#include "core/config_json.h"
#include "core/json.h"
#include "core/require.h"
#include "training/option_effects.h"

namespace diffusers {

namespace {

/// As the config file has them: "PATTERN:FACTOR".
std::vector<std::string> lr_factors_to_text(const std::vector<LearningRateFactor>& factors) {
  std::vector<std::string> texts;
  for (const LearningRateFactor& one : factors)
    texts.push_back(fmt::format("{}:{}", one.pattern, one.factor));
  return texts;
}

}  // namespace

// Not in the anonymous namespace: config_json finds it by its argument.
template <class Visitor>
void visit_fields(TrainingConfig& config, Visitor&& visit) {
  visit("output_dir", config.output_dir);
  visit("seed", config.seed);
  visit("resolution", config.resolution);
  visit("train_batch_size", config.train_batch_size);
  visit("num_epochs", config.num_epochs);
  visit("max_train_steps", config.max_train_steps);
  visit("gradient_accumulation_steps", config.gradient_accumulation_steps);
  visit("gradient_checkpointing", config.gradient_checkpointing);
  visit("fused_backward_pass", config.fused_backward_pass);
  visit("learning_rate", config.learning_rate);
  visit("lr_scheduler", config.lr_scheduler);
  visit("lr_warmup_steps", config.lr_warmup_steps);
  visit("snr_gamma", config.snr_gamma);
  visit("noise_offset", config.noise_offset);
  visit("input_perturbation", config.input_perturbation);
  visit("mixed_precision", config.mixed_precision);
  visit("max_grad_norm", config.max_grad_norm);
  visit("use_ema", config.use_ema);
  visit("ema_type", config.ema_type);
  visit("use_ema_warmup", config.use_ema_warmup);
  visit("ema_inv_gamma", config.ema_inv_gamma);
  visit("ema_power", config.ema_power);
  visit("ema_max_decay", config.ema_max_decay);
  visit("ema_min_decay", config.ema_min_decay);
  visit("ema_update_after_step", config.ema_update_after_step);
  visit("adam_beta1", config.adam_beta1);
  visit("adam_beta2", config.adam_beta2);
  visit("adam_weight_decay", config.adam_weight_decay);
  visit("adam_epsilon", config.adam_epsilon);
  visit("optimizer", config.optimizer);
  visit("checkpointing_steps", config.checkpointing_steps);
  visit("checkpoints_total_limit", config.checkpoints_total_limit);
  visit("resume_from_checkpoint", config.resume_from_checkpoint);
  visit("background_checkpoints", config.background_checkpoints);
  visit("validation_steps", config.validation_steps);
  visit("logging_steps", config.logging_steps);
  visit("progress_bar", config.progress_bar);
  visit("dataloader_num_workers", config.dataloader_num_workers);
  visit("cpu_data_parallel", config.cpu_data_parallel);
  visit("loss_type", config.loss_type);
  visit("huber_schedule", config.huber_schedule);
  visit("huber_c", config.huber_c);
  visit("logit_mean", config.logit_mean);
  visit("logit_std", config.logit_std);
  visit("mode_scale", config.mode_scale);
  visit("timestep_bias_strategy", config.timestep_bias_strategy);
  visit("timestep_bias_multiplier", config.timestep_bias_multiplier);
  visit("timestep_bias_begin", config.timestep_bias_begin);
  visit("timestep_bias_end", config.timestep_bias_end);
  visit("timestep_bias_portion", config.timestep_bias_portion);
  visit("train_only", config.train_only);
  visit("freeze", config.freeze);
  visit("no_decay", config.no_decay);
  visit("no_weight_decay_on_bias_and_norm", config.no_weight_decay_on_bias_and_norm);
  // Written only: nothing reads a TrainingConfig back from a file.
  std::vector<std::string> lr_factors = lr_factors_to_text(config.lr_factors);
  visit("lr_factors", lr_factors);
  visit("adam_amsgrad", config.adam_amsgrad);
  visit("sgd_momentum", config.sgd_momentum);
  visit("sgd_dampening", config.sgd_dampening);
  visit("sgd_nesterov", config.sgd_nesterov);
  visit("adafactor_beta2_decay", config.adafactor_beta2_decay);
  visit("adafactor_eps1", config.adafactor_eps1);
  visit("adafactor_eps2", config.adafactor_eps2);
  visit("adafactor_d", config.adafactor_d);
  visit("post_hoc_ema_sigma_rels", config.post_hoc_ema_sigma_rels);
  visit("post_hoc_ema_steps", config.post_hoc_ema_steps);
  visit("tensorboard", config.tensorboard);
  visit("logging_dir", config.logging_dir);
  visit("report", config.report);
  visit("validation_samples", config.validation_samples);
  visit("validation_bins", config.validation_bins);
  visit("lr_num_cycles", config.lr_num_cycles);
  visit("lr_power", config.lr_power);
  visit("lr_step_rules", config.lr_step_rules);
  visit("max_nonfinite_steps", config.max_nonfinite_steps);
  visit("overwrite_output_dir", config.overwrite_output_dir);
  visit("deterministic", config.deterministic);
  visit("handle_signals", config.handle_signals);
}

namespace {

void at_least(int64_t value, int64_t minimum, const char* key) {
  require<ConfigError>(value >= minimum, "{} is {}, expected {} or more", key, value, minimum);
}

void at_least_zero(double value, const char* key) {
  require<ConfigError>(std::isfinite(value) && value >= 0, "{} is {}, expected a finite number of at least 0",
                       key, value);
}

/// The Trainer also checks the updates of the task (`require_fused_backward`).
void validate_fused_backward_pass(const TrainingConfig& config) {
  if (!config.fused_backward_pass) return;
  require<ConfigError>(
      config.gradient_accumulation_steps == 1,
      "fused_backward_pass is true and gradient_accumulation_steps is {}: each backward pass "
      "updates the parameters. Set gradient_accumulation_steps to 1 or fused_backward_pass to "
      "false",
      config.gradient_accumulation_steps);
  require<ConfigError>(
      config.mixed_precision != MixedPrecision::kFp16,
      "fused_backward_pass is true and mixed_precision is \"fp16\": an overflow of the loss "
      "scale must be known before the first update. Set mixed_precision to \"bf16\" or \"no\", "
      "or fused_backward_pass to false");
  require<ConfigError>(
      config.cpu_data_parallel <= 1,
      "fused_backward_pass is true and cpu_data_parallel is {}: each part of a batch computes "
      "the gradients of all parameters. Set cpu_data_parallel to 1 or 0, or "
      "fused_backward_pass to false",
      config.cpu_data_parallel);
}

}  // namespace

void TrainingConfig::validate() const {
  require<ConfigError>(!output_dir.empty(), "output_dir is empty");
  at_least(seed.value_or(0), 0, "seed");
  at_least(resolution.value_or(1), 1, "resolution");
  at_least(train_batch_size, 1, "train_batch_size");
  at_least(num_epochs, 1, "num_epochs");
  at_least(max_train_steps.value_or(1), 1, "max_train_steps");
  at_least(gradient_accumulation_steps, 1, "gradient_accumulation_steps");
  at_least_zero(learning_rate, "learning_rate");
  at_least(lr_warmup_steps, 0, "lr_warmup_steps");
  // If the dataset determines the number of steps, any number that differs from lr_warmup_steps checks the
  // rest.
  get_scheduler(lr_scheduler, {.step_rules = lr_step_rules,
                               .num_warmup_steps = lr_warmup_steps,
                               .num_training_steps =
                                   max_train_steps.value_or(lr_warmup_steps == 0 ? 1 : lr_warmup_steps - 1),
                               .num_cycles = lr_num_cycles,
                               .power = lr_power,
                               .lr_init = learning_rate});
  at_least_zero(noise_offset, "noise_offset");
  at_least_zero(input_perturbation, "input_perturbation");
  at_least_zero(max_grad_norm, "max_grad_norm");
  require<ConfigError>(ema_max_decay >= 0 && ema_max_decay <= 1, "ema_max_decay is {}, expected 0 to 1",
                       ema_max_decay);
  require<ConfigError>(ema_min_decay >= 0 && ema_min_decay <= ema_max_decay,
                       "ema_min_decay is {}, expected 0 to ema_max_decay, which is {}", ema_min_decay,
                       ema_max_decay);
  require<ConfigError>(std::isfinite(ema_inv_gamma) && ema_inv_gamma > 0,
                       "ema_inv_gamma is {}, expected a finite number above 0", ema_inv_gamma);
  require<ConfigError>(std::isfinite(ema_power), "ema_power is {}, expected a finite number", ema_power);
  at_least(ema_update_after_step, 0, "ema_update_after_step");
  require<ConfigError>(adam_beta1 >= 0 && adam_beta1 < 1, "adam_beta1 is {}, expected 0 to less than 1",
                       adam_beta1);
  require<ConfigError>(adam_beta2 >= 0 && adam_beta2 < 1, "adam_beta2 is {}, expected 0 to less than 1",
                       adam_beta2);
  at_least_zero(adam_weight_decay, "adam_weight_decay");
  at_least_zero(adam_epsilon, "adam_epsilon");
  at_least(checkpointing_steps, 0, "checkpointing_steps");
  at_least(checkpoints_total_limit.value_or(1), 1, "checkpoints_total_limit");
  require<ConfigError>(!resume_from_checkpoint || !resume_from_checkpoint->empty(),
                       "resume_from_checkpoint is empty");
  at_least(validation_steps, 0, "validation_steps");
  at_least(logging_steps, 1, "logging_steps");
  require<ConfigError>(dataloader_num_workers >= 0 && dataloader_num_workers <= 1024,
                       "dataloader_num_workers is {}, expected 0 to 1024", dataloader_num_workers);
  at_least(cpu_data_parallel, 0, "cpu_data_parallel");
  for (const LearningRateFactor& one : lr_factors)
    require<ConfigError>(std::isfinite(one.factor) && one.factor >= 0,
                         "lr_factors: the factor of \"{}\" is {}, expected a finite number of at least 0",
                         one.pattern, one.factor);
  at_least_zero(sgd_momentum, "sgd_momentum");
  require<ConfigError>(std::isfinite(sgd_dampening), "sgd_dampening is {}, expected a finite number",
                       sgd_dampening);
  require<ConfigError>(
      !sgd_nesterov || optimizer != OptimizerType::kSGD || (sgd_momentum > 0 && sgd_dampening == 0),
      "sgd_nesterov is true, but sgd_momentum is {} and sgd_dampening is {}; expected a "
      "momentum above 0 and no dampening",
      sgd_momentum, sgd_dampening);
  require<ConfigError>(std::isfinite(adafactor_beta2_decay) && adafactor_beta2_decay <= 0,
                       "adafactor_beta2_decay is {}, expected a finite number of at most 0",
                       adafactor_beta2_decay);
  at_least_zero(adafactor_eps1.value_or(0), "adafactor_eps1");
  at_least_zero(adafactor_eps2, "adafactor_eps2");
  require<ConfigError>(std::isfinite(adafactor_d) && adafactor_d >= 1,
                       "adafactor_d is {}, expected a finite number of at least 1", adafactor_d);
  for (std::size_t i = 0; i < post_hoc_ema_sigma_rels.size(); ++i) {
    sigma_rel_to_gamma(post_hoc_ema_sigma_rels[i]);  // checks the range
    for (std::size_t j = 0; j < i; ++j)
      require<ConfigError>(post_hoc_ema_sigma_rels[i] != post_hoc_ema_sigma_rels[j],
                           "post_hoc_ema_sigma_rels holds {} twice", post_hoc_ema_sigma_rels[i]);
  }
  at_least(post_hoc_ema_steps, 1, "post_hoc_ema_steps");
  require<ConfigError>(
      !logging_dir.empty() && logging_dir.front() != '/' && logging_dir.find("..") == std::string::npos,
      "logging_dir is \"{}\", expected a folder within output_dir", logging_dir);
  at_least(validation_samples, 1, "validation_samples");
  at_least(validation_bins, 1, "validation_bins");
  at_least(lr_num_cycles, 1, "lr_num_cycles");
  at_least(max_nonfinite_steps, 1, "max_nonfinite_steps");
  validate_fused_backward_pass(*this);
  require_options_with_effect(*this, option_effects());
}

std::string TrainingConfig::to_json() const { return dump_json(config_json::fields_to_json(*this)); }

}  // namespace diffusers

#include "train_flags.h"

#include <charconv>
#include <string_view>

#include <diffusers/core/error.h>

#include "training_group.h"

using namespace diffusers;

namespace {

/// Reads "PATTERN:FACTOR". A pattern may contain colons.
LearningRateFactor parse_lr_factor(const std::string& text) {
  const std::size_t colon = text.rfind(':');
  double factor = 0;
  const char* end = text.data() + text.size();
  const char* number = colon == std::string::npos ? end : text.data() + colon + 1;
  const auto [rest, error] = std::from_chars(number, end, factor);
  if (error != std::errc() || rest != end || colon == 0)
    throw ConfigError("--lr_factors has \"" + text + "\", expected PATTERN:FACTOR, such as \"*.bias:0.5\"");
  return {text.substr(0, colon), factor};
}

Flag<TrainingConfig> lr_factors_flag() {
  return Flag<TrainingConfig>([](CLI::App& app, TrainingConfig& config) {
    return app
        .add_option_function<std::vector<std::string>>(
            "--lr_factors",
            [&config](const std::vector<std::string>& texts) {
              config.lr_factors.clear();
              for (const std::string& text : texts) config.lr_factors.push_back(parse_lr_factor(text));
            },
            "Factors on the learning rate by the names of parameters: PATTERN:FACTOR, such as "
            "\"*.bias:0.5\". "
            "The last pattern that fits a name counts.")
        ->default_str("none");
  });
}

/// A flag of the group of processes, which is the same for all programs.
template <class Field>
Flag<TrainingConfig> group_flag(const std::string& name, Field ProcessGroupOptions::*field,
                                const std::string& help, const FlagOptions& options = {}) {
  return Flag<TrainingConfig>([=](CLI::App& app, TrainingConfig&) {
    return Flag<ProcessGroupOptions>(name, field, help, options).add(app, training_group_options());
  });
}

}  // namespace

const FlagTable<TrainingConfig>& training_flags() {
  using Config = TrainingConfig;
  static const FlagTable<Config> table{
      {"Training",
       {{"--output_dir", &Config::output_dir,
         "Folder that the checkpoints and the trained model are written to."},
        {"--overwrite_output_dir", &Config::overwrite_output_dir,
         "Remove what an earlier run wrote into --output_dir."},
        {"--seed",
         &Config::seed,
         "Seed of the data order, the noise and the timesteps. Without it each run differs.",
         {.default_text = "random"}},
        {"--resolution",
         &Config::resolution,
         "Height and width of the training images, in pixels.",
         {.default_text = "that of the program"}},
        {"--train_batch_size", &Config::train_batch_size, "Number of samples in a batch."},
        {"--num_epochs,--num_train_epochs", &Config::num_epochs, "Number of passes through the dataset."},
        {"--max_train_steps",
         &Config::max_train_steps,
         "Number of optimizer steps. Overrides --num_epochs.",
         {.default_text = "from --num_epochs"}},
        {"--gradient_accumulation_steps", &Config::gradient_accumulation_steps,
         "Number of batches whose gradients make one optimizer step."},
        {"--gradient_checkpointing", &Config::gradient_checkpointing,
         "Recompute activations in the backward pass, which saves memory and takes time."},
        {"--fused_backward_pass", &Config::fused_backward_pass,
         "Update each parameter in the backward pass and free its gradient. Needs --max_grad_norm 0."},
        {"--mixed_precision", &Config::mixed_precision,
         "Dtype that the model computes in. The weights stay float32."},
        {"--max_grad_norm", &Config::max_grad_norm, "Maximum gradient norm. 0 disables clipping."},
        {"--dataloader_num_workers", &Config::dataloader_num_workers,
         "Number of threads that read batches ahead. 0 reads in the main thread."},
        {"--cpu_data_parallel", &Config::cpu_data_parallel,
         "CPU only: number of parts that a batch is split into, one thread each. 0 chooses the number."},
        {"--deterministic", &Config::deterministic, "Use only deterministic algorithms."},
        {"--freeze", &Config::freeze,
         "Patterns of the names of parameters that are not trained, with * and ?."},
        {"--train_only", &Config::train_only,
         "Patterns of the names of the only parameters that are trained."},
        {"--max_nonfinite_steps", &Config::max_nonfinite_steps,
         "Number of consecutive steps with a non-finite loss or gradient that end the training."}}},
      {"Several processes",
       {group_flag("--ddp_timeout", &ProcessGroupOptions::timeout_seconds,
                   "Seconds that a process waits for the others.", {.check = between(1, 86400)}),
        group_flag("--ddp_find_unused_parameters", &ProcessGroupOptions::find_unused_parameters,
                   "Look for trained parameters that the loss does not use, in each step."),
        group_flag("--ddp_bucket_cap_mb", &ProcessGroupOptions::bucket_cap_mb,
                   "Megabytes of gradients that are exchanged at once.", {.check = greater_than(0)}),
        group_flag("--ddp_gradient_compression", &ProcessGroupOptions::gradient_compression,
                   "Format in which gradients travel between the processes."),
        group_flag(
            "--zero_stage", &ProcessGroupOptions::zero_stage,
            "What the processes divide among each other: 0 nothing, 1 the state of the optimizer and the "
            "EMA weights, 2 the gradients too.",
            {.check = between(0, 2)})}},
      {"Optimizer",
       {{"--learning_rate", &Config::learning_rate, "Learning rate after the warm-up."},
        {"--lr_scheduler", &Config::lr_scheduler,
         "Learning rate schedule: linear, cosine, cosine_with_restarts, polynomial, constant, "
         "constant_with_warmup or piecewise_constant."},
        {"--lr_warmup_steps", &Config::lr_warmup_steps,
         "Number of steps in which the learning rate rises from 0."},
        {"--lr_num_cycles", &Config::lr_num_cycles,
         "Number of cycles of --lr_scheduler cosine_with_restarts."},
        {"--lr_power", &Config::lr_power, "Exponent of the decay of --lr_scheduler polynomial."},
        {"--lr_step_rules", &Config::lr_step_rules,
         "Rules of --lr_scheduler piecewise_constant: FACTOR:STEP for each part, and the factor of the rest, "
         "such as 1:1000,0.1:2000,0.01."},
        lr_factors_flag(),
        {"--optimizer", &Config::optimizer, "Update rule of the parameters."},
        {"--adam_beta1", &Config::adam_beta1, "Decay of the mean of the gradients."},
        {"--adam_beta2", &Config::adam_beta2, "Decay of the mean of the squared gradients."},
        {"--adam_weight_decay", &Config::adam_weight_decay, "Weight decay of all optimizers."},
        {"--adam_epsilon", &Config::adam_epsilon, "Term added to the denominator for numerical stability."},
        {"--adam_amsgrad", &Config::adam_amsgrad,
         "Divide by the largest mean of the squared gradients so far (AMSGrad)."},
        {"--no_decay", &Config::no_decay,
         "Patterns of the names of parameters without weight decay, with * and ?."},
        {"--no_weight_decay_on_bias_and_norm", &Config::no_weight_decay_on_bias_and_norm,
         "No weight decay for biases and for the parameters of norm layers."},
        {"--sgd_momentum", &Config::sgd_momentum, "Momentum of --optimizer sgd. 0 disables it."},
        {"--sgd_dampening", &Config::sgd_dampening,
         "Share of a gradient that the momentum of --optimizer sgd leaves out."},
        {"--sgd_nesterov", &Config::sgd_nesterov, "Nesterov momentum of --optimizer sgd."},
        {"--adafactor_beta2_decay", &Config::adafactor_beta2_decay,
         "Exponent of Adafactor's decay of squared gradients: beta2 is 1 - step^beta2_decay."},
        {"--adafactor_eps1",
         &Config::adafactor_eps1,
         "Adafactor's lower bound of the root mean square of a gradient.",
         {.default_text = "machine epsilon"}},
        {"--adafactor_eps2", &Config::adafactor_eps2,
         "Adafactor's lower bound of the root mean square of a parameter."},
        {"--adafactor_d", &Config::adafactor_d,
         "Adafactor's upper bound of the root mean square of an update."}}},
      {"EMA",
       {{"--use_ema,!--no_use_ema", &Config::use_ema,
         "Keep an exponential moving average of the weights. It becomes the final model."},
        {"--ema_type", &Config::ema_type, "Class of the average: diffusers' EMAModel or LDM's LitEma."},
        {"--use_ema_warmup", &Config::use_ema_warmup,
         "Raise the decay of the EMA slowly, as train_unconditional.py does."},
        {"--ema_inv_gamma", &Config::ema_inv_gamma, "Inverse multiplicative factor of the EMA warm-up."},
        {"--ema_power", &Config::ema_power, "Exponent of the EMA warm-up."},
        {"--ema_max_decay", &Config::ema_max_decay, "Maximum decay of the EMA."},
        {"--ema_min_decay", &Config::ema_min_decay, "Minimum decay of the EMA."},
        {"--ema_update_after_step", &Config::ema_update_after_step,
         "Number of steps at the start in which the EMA copies the weights."},
        {"--post_hoc_ema_sigma_rels", &Config::post_hoc_ema_sigma_rels,
         "Relative widths of power-function averages, such as 0.05 0.1. reconstruct_ema reads their "
         "snapshots."},
        {"--post_hoc_ema_steps", &Config::post_hoc_ema_steps,
         "Number of steps between two of these snapshots."}}},
      {"Loss",
       {{"--snr_gamma", &Config::snr_gamma,
         "Gamma of the min-SNR weighting of the loss. The paper recommends 5."},
        {"--noise_offset", &Config::noise_offset, "Strength of noise that is constant over each channel."},
        {"--input_perturbation", &Config::input_perturbation,
         "Strength of noise added to the model's input, but not to the target."},
        {"--loss_type", &Config::loss_type, "Error function of the loss."},
        {"--huber_schedule", &Config::huber_schedule,
         "How --huber_c depends on the timestep, for --loss_type huber and smooth_l1."},
        {"--huber_c", &Config::huber_c, "Width of the quadratic part of --loss_type huber and smooth_l1."},
        {"--logit_mean", &Config::logit_mean, "Mean of --timestep_sampling logit_normal."},
        {"--logit_std", &Config::logit_std, "Standard deviation of --timestep_sampling logit_normal."},
        {"--mode_scale", &Config::mode_scale, "Concentration of --timestep_sampling mode."},
        {"--timestep_bias_strategy", &Config::timestep_bias_strategy,
         "Which timesteps are drawn more often."},
        {"--timestep_bias_multiplier", &Config::timestep_bias_multiplier,
         "Factor by which these timesteps are drawn more often."},
        {"--timestep_bias_begin", &Config::timestep_bias_begin,
         "First timestep of --timestep_bias_strategy range."},
        {"--timestep_bias_end", &Config::timestep_bias_end,
         "End of --timestep_bias_strategy range, which it excludes."},
        {"--timestep_bias_portion", &Config::timestep_bias_portion,
         "Share of the timesteps for --timestep_bias_strategy earlier and later."}}},
      {"Checkpoints",
       {{"--checkpointing_steps", &Config::checkpointing_steps,
         "Number of steps between two checkpoints. 0 writes none."},
        {"--checkpoints_total_limit",
         &Config::checkpoints_total_limit,
         "Maximum number of checkpoints that are kept.",
         {.default_text = "all"}},
        {"--resume_from_checkpoint", &Config::resume_from_checkpoint,
         "Checkpoint to resume from: latest, a path, or a name in --output_dir."},
        {"--background_checkpoints", &Config::background_checkpoints,
         "Write checkpoints while the training continues."}}},
      {"Logs",
       {{"--logging_steps", &Config::logging_steps, "Number of steps between two rows of metrics.csv."},
        {"--logging_dir", &Config::logging_dir, "Folder of the TensorBoard files, in --output_dir."},
        {"--tensorboard", &Config::tensorboard, "Write TensorBoard files."},
        {"--report", &Config::report, "Write report.html at the end."},
        {"--progress_bar", &Config::progress_bar, "Show the progress on standard output."},
        {"--validation_steps", &Config::validation_steps,
         "Number of steps between two previews and validations. Both also come at the end, with 0 only "
         "there."},
        {"--validation_samples", &Config::validation_samples,
         "Number of held-out images that a validation uses."},
        {"--validation_bins", &Config::validation_bins,
         "Number of parts of the noise schedule whose validation loss is measured separately."}}},
  };
  return table;
}

const FlagTable<DiffusionTaskOptions>& task_flags() {
  using Config = DiffusionTaskOptions;
  static const FlagTable<Config> table{
      {"Diffusion task",
       {{"--class_dropout_prob", &Config::class_dropout_prob,
         "Share of the class labels that are replaced by \"no class\", for classifier-free guidance."},
        {"--weighting", &Config::weighting, "Weighting of the loss over the timesteps."},
        {"--p2_gamma", &Config::p2_gamma, "Gamma of --weighting p2."},
        {"--p2_k", &Config::p2_k, "K of --weighting p2."},
        {"--sigma_data", &Config::sigma_data, "Standard deviation of the data, for --weighting edm."},
        {"--l_simple_weight", &Config::l_simple_weight, "Factor of the weighted loss (LDM)."},
        {"--original_elbo_weight", &Config::original_elbo_weight,
         "Factor of the loss with the weights of the variational bound (LDM)."},
        {"--timestep_sampling", &Config::timestep_sampling, "Distribution of the timesteps."},
        {"--pyramid_noise_iterations", &Config::pyramid_noise_iterations,
         "Number of levels of multi-resolution noise. 0 disables it."},
        {"--pyramid_noise_discount", &Config::pyramid_noise_discount,
         "Factor from one level of multi-resolution noise to the next."},
        {"--learned_log_variance", &Config::learned_log_variance,
         "Learned weight of each timestep: a table, or Fourier features of the timestep."},
        {"--logvar_init", &Config::logvar_init, "Initial value of --learned_log_variance table."}}},
  };
  return table;
}

const FlagTable<DDPMSchedulerConfig>& scheduler_flags() {
  using Config = DDPMSchedulerConfig;
  static const FlagTable<Config> table{
      {"Diffusion",
       {{"--prediction_type",
         &Config::prediction_type,
         "Quantity that the model predicts: the noise, the clean image, or v. The loss of sample is "
         "weighted by the SNR.",
         {.choices = {"epsilon", "sample", "v_prediction"}}},
        {"--ddpm_num_steps", &Config::num_train_timesteps, "Number of timesteps of the noise schedule."},
        {"--ddpm_beta_schedule", &Config::beta_schedule, "Shape of the noise schedule."}}},
  };
  return table;
}

const std::vector<RefusedFlag>& refused_flags() {
  static const std::string hub =
      "the program does not upload to the Hugging Face Hub; upload --output_dir with `hf upload`";
  static const std::string datasets =
      "the program does not download datasets; give a folder of images with --train_data_dir";
  static const std::vector<RefusedFlag> flags{
      {"--push_to_hub", hub},
      {"--hub_token", hub},
      {"--hub_model_id", hub},
      {"--hub_private_repo", hub},
      {"--dataset_name", datasets},
      {"--dataset_config_name", datasets},
      {"--cache_dir", datasets},
      {"--use_8bit_adam", "it needs the Python package bitsandbytes; expected --optimizer"},
      {"--enable_xformers_memory_efficient_attention",
       "it needs the Python package xformers; LibTorch's scaled_dot_product_attention is always used"},
      {"--local_rank",
       "the launcher's environment variables give the rank; start the program with torchrun "
       "--no-python"},
      {"--preserve_input_precision", "images are read with 8 bits per channel"},
  };
  return flags;
}

void refuse_python_flags(CLI::App& app, int argc, char** argv, const std::vector<RefusedFlag>& more) {
  std::string names;
  std::vector<RefusedFlag> refused = refused_flags();
  refused.insert(refused.end(), more.begin(), more.end());
  for (const RefusedFlag& flag : refused) {
    names += (names.empty() ? "" : ", ") + flag.name;
    for (int i = 1; i < argc; ++i) {
      const std::string_view argument = argv[i];
      if (argument.substr(0, argument.find('=')) == flag.name)
        throw ConfigError(flag.name + " is not supported: " + flag.reason);
    }
  }
  app.footer("Flags of Python's script that are refused, with the reason: " + names);
}

void complete_training_flags(const CLI::App& app, TrainingConfig& training) {
  training_group();  // before anything is read or made
  const auto is_given = [&](const char* flag) { return app.count(flag) > 0; };
  const bool has_warmup =
      training.lr_scheduler != "constant" && training.lr_scheduler != "piecewise_constant";
  if (!has_warmup && !is_given("--lr_warmup_steps")) training.lr_warmup_steps = 0;
  if (is_given("--num_epochs") && !is_given("--max_train_steps")) training.max_train_steps.reset();
  // These optimizers do not use the betas that a program chose for Adam.
  if (training.optimizer == OptimizerType::kSGD || training.optimizer == OptimizerType::kAdafactor) {
    if (!is_given("--adam_beta1")) training.adam_beta1 = TrainingConfig().adam_beta1;
    if (!is_given("--adam_beta2")) training.adam_beta2 = TrainingConfig().adam_beta2;
  }
}

CLI::Validator available_logger() {
  const auto check = [](const std::string& name) -> std::string {
    if (name == "tensorboard") return "";
    return "\"" + name +
           "\" is not supported, since it needs a Python package or a service; expected tensorboard";
  };
  return {check, "", "logger"};
}

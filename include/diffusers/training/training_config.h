#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/enum_names.h>
#include <diffusers/training/loss_options.h>
#include <diffusers/training/optimizer.h>
#include <diffusers/training/timestep_sampler.h>

namespace diffusers {

/// The dtype of the model's computation under autocast. Weights, loss, gradients and EMA weights stay
/// float32.
///
/// | name   | dtype                                     |
/// |--------|-------------------------------------------|
/// | `no`   | dtype of the weights                      |
/// | `fp16` | float16, with loss scaling (`GradScaler`) |
/// | `bf16` | bfloat16                                  |
enum class MixedPrecision { kNo, kFp16, kBf16 };

/// The Python strings of `MixedPrecision`.
template <>
struct EnumNames<MixedPrecision> {
  static constexpr std::string_view kKey = "mixed_precision";
  static constexpr std::array<std::pair<MixedPrecision, std::string_view>, 3> kTable{{
      {MixedPrecision::kNo, "no"},
      {MixedPrecision::kFp16, "fp16"},
      {MixedPrecision::kBf16, "bf16"},
  }};
};

/// The class of the average that `TrainingConfig::use_ema` keeps.
enum class EMAType {
  kEmaModel,  ///< `EMAModel` of diffusers
  kLitEma,    ///< `LitEma` of latent-diffusion
};

/// The Python strings of `EMAType`.
template <>
struct EnumNames<EMAType> {
  static constexpr std::string_view kKey = "ema_type";
  static constexpr std::array<std::pair<EMAType, std::string_view>, 2> kTable{{
      {EMAType::kEmaModel, "ema_model"},
      {EMAType::kLitEma, "lit_ema"},
  }};
};

/// A factor on the learning rate of the parameters whose names match a pattern.
struct LearningRateFactor {
  std::string pattern;  ///< pattern of parameter names, with `*` and `?` (see `matches_pattern`)
  double factor = 1.0;  ///< factor on the learning rate, 0 or more
};

/// Options of a training: the flags of diffusers' training scripts, with the defaults of
/// `train_unconditional.py`, and further options of the Trainer.
///
/// Steps are optimizer steps. `validate` refuses a field that was changed from its default and has no effect
/// with the other fields. A task refuses fields that it does not use.
struct TrainingConfig {
  /// Folder of the checkpoints, metrics and previews, and of the final model. It is created if it is missing.
  std::string output_dir = "ddpm-model-64";
  /// Seed of the data order, the noise, the timesteps and dropout, 0 or more. None: a random seed, or
  /// the checkpoint's if the training is resumed.
  std::optional<int64_t> seed = std::nullopt;
  /// Expected height and width of the images, in pixels, 1 or more. An image of another size is an error.
  /// None: any size.
  std::optional<int64_t> resolution = std::nullopt;
  /// Number of samples in a batch, 1 or more.
  int64_t train_batch_size = 16;
  /// Number of passes over the dataset, 1 or more. It has no effect if `max_train_steps` is set.
  int64_t num_epochs = 100;
  /// Total number of steps, 1 or more. It overrides `num_epochs`. None: `num_epochs` passes over the dataset.
  /// An IterableDataset without `size()` needs it.
  std::optional<int64_t> max_train_steps = std::nullopt;
  /// Number of batches whose gradients make one step, 1 or more. Accumulating N batches gives the same result
  /// as one batch of N times the size, with the same noise and timesteps. This also holds for the last,
  /// smaller group of an epoch.
  int64_t gradient_accumulation_steps = 1;
  /// Recomputes activations in the backward pass, which saves memory and costs time. The model must support
  /// it.
  bool gradient_checkpointing = false;
  /// Updates each parameter during the backward pass, as soon as its gradient is known, and frees the
  /// gradient at once (the flag has kohya's name). The gradients of all parameters are then never held
  /// together. The results are those of a step without clipping, bit for bit.
  ///
  /// It needs `max_grad_norm` 0, `gradient_accumulation_steps` 1, no `mixed_precision` "fp16" and a task with
  /// one update. Batches on the CPU stay whole, as with `cpu_data_parallel` 1. If a gradient is not finite,
  /// only the parameters whose gradients came before it have been updated; the others skip the step.
  bool fused_backward_pass = false;
  /// Learning rate after the warm-up, 0 or more.
  double learning_rate = 1e-4;
  /// Learning rate schedule; `get_scheduler` lists the names. As in accelerate, the schedule counts the steps
  /// that were taken. A skipped step does not advance it.
  std::string lr_scheduler = "cosine";
  /// Number of steps in which the learning rate rises from 0, 0 or more. The schedules "constant" and
  /// "piecewise_constant" have no warm-up: they accept 0 and the default, and ignore the default.
  int64_t lr_warmup_steps = 500;
  /// gamma of the min-SNR weighting of the loss, above 0 (Hang et al. 2023, arXiv 2303.09556); see
  /// DiffusionLossOptions. None: DiffusionTaskOptions' `weighting` decides.
  std::optional<double> snr_gamma = std::nullopt;
  /// Strength of additional noise that is constant over each channel of a sample, 0 or more (Guttenberg
  /// 2023). 0 disables it.
  double noise_offset = 0.0;
  /// Strength of additional noise in the model's input that the target does not contain, 0 or more (Ning et
  /// al. 2023, arXiv 2301.11706). 0 disables it.
  double input_perturbation = 0.0;
  /// Dtype of the model's computation.
  EnumChoice<MixedPrecision> mixed_precision = MixedPrecision::kNo;
  /// Maximum gradient norm, 0 or more. 0 disables clipping.
  double max_grad_norm = 1.0;

  /// Keeps an exponential moving average (EMA) of the weights. Validation, previews and the final model use
  /// it. The other EMA fields have no effect without it.
  bool use_ema = false;
  /// Class of the EMA: `EMAModel` of diffusers or `LitEma` of latent-diffusion. Only with `use_ema`.
  EnumChoice<EMAType> ema_type = EMAType::kEmaModel;
  /// Selects the formula of the EMA decay at update n, which `ema_max_decay` limits. Only with `use_ema`.
  ///  - "ema_model", true: 1 - (1 + n / ema_inv_gamma)^-ema_power, as in `train_unconditional.py`;
  ///  - "ema_model", false: (1 + n) / (10 + n), as in the Stable Diffusion scripts;
  ///  - "lit_ema", true: (1 + n) / (10 + n);
  ///  - "lit_ema", false: `ema_max_decay`.
  ///
  /// `EMAModel::get_decay` and `LitEma::get_decay` define n exactly.
  bool use_ema_warmup = true;
  /// Inverse multiplicative factor of the EMA warm-up, above 0. Only for "ema_model" with `use_ema_warmup`.
  double ema_inv_gamma = 1.0;
  /// Exponent of the EMA warm-up, finite. Only for "ema_model" with `use_ema_warmup`.
  double ema_power = 0.75;
  /// Upper bound of the EMA decay, in [0, 1]. Only with `use_ema`.
  double ema_max_decay = 0.9999;
  /// Lower bound of the EMA decay, in [0, ema_max_decay]. Only for "ema_model".
  double ema_min_decay = 0.0;
  /// Number of steps at the start in which the EMA weights copy the weights, 0 or more. Only for "ema_model".
  int64_t ema_update_after_step = 0;

  /// Decay of the first moment, in [0, 1). AdamW, Adam and Lion use it. The others accept the default and
  /// 0.9, the default of most Python scripts, and ignore it.
  double adam_beta1 = 0.95;
  /// Decay of the second moment of AdamW and Adam, and of the momentum of Lion, in [0, 1). Chen et al. 2023
  /// use 0.99 for Lion.
  double adam_beta2 = 0.999;
  /// Weight decay of every optimizer, 0 or more. 0 disables it.
  double adam_weight_decay = 1e-6;
  /// Number that is added to the root of the second moment, 0 or more. Only for AdamW and Adam.
  double adam_epsilon = 1e-8;
  /// Optimizer; see `OptimizerType`. Lion needs about a tenth of the learning rate of AdamW.
  EnumChoice<OptimizerType> optimizer = OptimizerType::kAdamW;

  /// Interval between checkpoints in steps, 0 or more. 0 writes a checkpoint only when the training is
  /// stopped.
  int64_t checkpointing_steps = 500;
  /// Maximum number of checkpoints, 1 or more. The oldest ones are removed after a new one is complete. With
  /// 1, no other checkpoint is left if the disk damages it. None: all checkpoints are kept.
  std::optional<int64_t> checkpoints_total_limit = std::nullopt;
  /// Checkpoint to resume from: "latest", the path of a checkpoint, or the name of one in `output_dir`. If
  /// the checkpoint is not the newest of `output_dir`, the newer ones move to `abandoned-N/`. None: a new
  /// training starts.
  std::optional<std::string> resume_from_checkpoint = std::nullopt;
  /// Writes checkpoints in a background thread, from a copy in the host's memory. The training waits for the
  /// disk only if the next checkpoint is due. A training that is killed then loses the steps of up to two
  /// intervals. False writes without a copy while the training waits; a killed training loses one interval.
  bool background_checkpoints = true;
  /// Interval in steps between validations and previews, which also run at the end, 0 or more. 0: at the end
  /// only. A value above 0 needs held-out data or a preview callback.
  int64_t validation_steps = 0;
  /// Interval in steps at which the loss is read from the device, logged and written to metrics.csv, 1 or
  /// more.
  int64_t logging_steps = 50;
  /// Shows the progress on standard output: a progress bar on a terminal, else a line every `logging_steps`.
  bool progress_bar = true;

  /// Number of threads that read the dataset ahead, 0 to 1024. 0 reads in the thread of the training.
  /// At most 1 for an IterableDataset.
  int64_t dataloader_num_workers = 0;
  /// Number of parts that each batch is cut into on the CPU, 0 or more. One thread computes a part, forward
  /// and backward. Several parts are faster than LibTorch's threads for models of small layers. A run repeats
  /// bit for bit with the same number.
  ///
  /// 0: the Trainer chooses the number at the first batch, from the sizes of the batch and of the model and
  /// from `at::get_num_threads()`. It logs the number as LogLevel::kInfo and saves it with each checkpoint. A
  /// training that is resumed keeps the number of its checkpoint. 1: each batch stays whole. More than 1 is
  /// refused on other devices and for tasks that need whole batches, such as models with dropout; see
  /// `Task::batch_split`.
  int64_t cpu_data_parallel = 0;
  /// Loss of one element; see `LossType`.
  EnumChoice<LossType> loss_type = LossType::kL2;
  /// Dependence of c on the timestep; see `HuberSchedule`. Only for `loss_type` "huber" and "smooth_l1". The
  /// schedules "exponential" and "snr" need discrete timesteps.
  EnumChoice<HuberSchedule> huber_schedule = HuberSchedule::kConstant;
  /// c of the Huber losses, above 0. Only for `loss_type` "huber" and "smooth_l1".
  double huber_c = 0.1;
  /// Mean of the normal number of "logit_normal". Only for DiffusionTaskOptions' `timestep_sampling`
  /// "logit_normal".
  double logit_mean = 0.0;
  /// Standard deviation of the normal number, above 0. Only for `timestep_sampling` "logit_normal".
  double logit_std = 1.0;
  /// Concentration, -1 to 2 / (pi - 2). Only for `timestep_sampling` "mode".
  double mode_scale = 1.29;
  /// Timesteps that are drawn more often; see `TimestepBias`. Only for `timestep_sampling` "uniform" and
  /// discrete timesteps.
  EnumChoice<TimestepBias> timestep_bias_strategy = TimestepBias::kNone;
  /// Factor on the weight of the timesteps that the bias selects, above 0. Only with a
  /// `timestep_bias_strategy`.
  double timestep_bias_multiplier = 1.0;
  /// First timestep of the bias "range", 0 or more. Only for "range".
  int64_t timestep_bias_begin = 0;
  /// End of the bias "range", not included, at most T. Only for "range".
  int64_t timestep_bias_end = 1000;
  /// Share of the timesteps that the bias selects, 0 to 1. Only for "earlier" and "later".
  double timestep_bias_portion = 0.25;
  /// Patterns of the parameters that are trained; all others are frozen. Empty: all parameters are trained.
  ///
  /// Patterns of parameter names have `*` and `?` (see `matches_pattern`). A pattern that matches no name is
  /// an error. The names of the first module's parameters have no prefix. Those of further modules begin with
  /// the module's name, such as "log_variance.".
  std::vector<std::string> train_only = {};
  /// Patterns of the parameters that are not trained.
  std::vector<std::string> freeze = {};
  /// Patterns of the parameters without weight decay.
  std::vector<std::string> no_decay = {};
  /// Disables weight decay for biases, norms and embeddings; `no_decay_names` lists them.
  bool no_weight_decay_on_bias_and_norm = false;
  /// Factors on the learning rate by parameter name. If several patterns match a name, the last one counts. A
  /// pattern that matches no trained parameter is an error.
  std::vector<LearningRateFactor> lr_factors = {};
  /// Divides by the largest second moment so far. Only for AdamW and Adam.
  bool adam_amsgrad = false;
  /// Momentum, 0 or more. 0 disables it. Only for SGD.
  double sgd_momentum = 0.0;
  /// The momentum buffer takes (1 - sgd_dampening) times the gradient. Finite. Only for SGD with momentum.
  double sgd_dampening = 0.0;
  /// Uses Nesterov momentum, which needs `sgd_momentum` above 0 and `sgd_dampening` 0. Only for SGD.
  bool sgd_nesterov = false;
  /// Exponent of the second moment's decay, 0 or less: step t averages with beta2 = 1 - t^beta2_decay. Only
  /// for Adafactor.
  double adafactor_beta2_decay = -0.8;
  /// Lower bound of the root mean square of a gradient, 0 or more. None: the machine epsilon of the dtype.
  /// Only for Adafactor.
  std::optional<double> adafactor_eps1 = std::nullopt;
  /// Lower bound of the root mean square of a parameter, 0 or more. Only for Adafactor.
  double adafactor_eps2 = 1e-3;
  /// Upper bound of the root mean square of an update, 1 or more. Only for Adafactor.
  double adafactor_d = 1.0;
  /// Relative widths of the power-function averages that are kept beside the EMA, in (1e-6, 1 / sqrt(12)],
  /// each once. The average of any width can be computed from their snapshots after the training; see
  /// PostHocEma. EDM2 uses 0.05 and 0.10. Empty: no such averages.
  std::vector<double> post_hoc_ema_sigma_rels = {};
  /// Interval in steps between snapshots of these averages in `power_ema/MODEL/`, 1 or more. A snapshot is
  /// also written at the end. Only with `post_hoc_ema_sigma_rels`.
  int64_t post_hoc_ema_steps = 1000;
  /// Writes TensorBoard event files into `logging_dir`.
  bool tensorboard = true;
  /// Folder of the event files, relative to `output_dir` and within it. Only with `tensorboard`, or with
  /// `overwrite_output_dir`, which removes its event files.
  std::string logging_dir = "logs";
  /// Writes report.html at the end.
  bool report = true;
  /// Number of samples of the validation dataset that are used, from its start, 1 or more. Only with
  /// `validation_steps`.
  int64_t validation_samples = 256;
  /// Number of parts of the noise schedule for which the validation loss is reported, 1 or more. Only with
  /// `validation_steps`.
  int64_t validation_bins = 10;
  /// Number of cycles, 1 or more. Only for `lr_scheduler` "cosine_with_restarts".
  int64_t lr_num_cycles = 1;
  /// Exponent of the decay. Only for `lr_scheduler` "polynomial".
  double lr_power = 1.0;
  /// Factors and the steps at which they end; see `LRSchedulerOptions::step_rules`. Only for `lr_scheduler`
  /// "piecewise_constant".
  std::string lr_step_rules = {};
  /// Number of consecutive non-finite steps after which `train` throws an Error, 1 or more. A step is
  /// non-finite if its loss or a gradient is not finite. The Trainer skips it. With fp16 an overflow only
  /// reduces the loss scale; it counts as non-finite if the scale is 1 or below.
  int64_t max_nonfinite_steps = 5;
  /// Removes the files that an earlier training wrote into `output_dir`, and no others. False: a new training
  /// refuses a folder that holds checkpoints, a finished model or snapshots of averages.
  bool overwrite_output_dir = false;
  /// Makes LibTorch use deterministic algorithms and refuse operations that have none
  /// (`torch.use_deterministic_algorithms`). On the CPU a run repeats without it. A CUDA device also needs
  /// CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment.
  bool deterministic = false;
  /// Handles SIGINT, SIGTERM and SIGUSR1: the first signal ends the training after the current step, with a
  /// checkpoint. The same signal again ends the program at once.
  bool handle_signals = false;

  /// Checks the ranges of the fields. It also refuses a field that was changed from its default and has no
  /// effect with the other fields, such as `sgd_momentum` with AdamW. The constructor of Trainer calls it.
  /// @throws ConfigError naming the field and its value
  void validate() const;
  /// Converts the config to JSON.
  /// @return all fields as a JSON object
  std::string to_json() const;
};

}  // namespace diffusers

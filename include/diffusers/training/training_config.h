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

/// The dtype that the model computes in; its weights stay float32.
enum class MixedPrecision { kNo, kFp16, kBf16 };

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

/// A factor on the learning rate of some parameters.
struct LearningRateFactor {
  std::string pattern;  ///< of parameter names, with `*` and `?` (see `matches_pattern`)
  double factor = 1.0;  ///< factor on the learning rate, 0 or more
};

/// The flags of diffusers' training scripts, with the defaults of `train_unconditional.py`. Steps are
/// optimizer steps.
struct TrainingConfig {
  /// Takes the checkpoints, metrics and pictures while training, the model at the end.
  std::string output_dir = "ddpm-model-64";
  /// Fixes the order of the data, the noise, the timesteps and dropout. None: a new one each run.
  std::optional<int64_t> seed = std::nullopt;
  /// Side of the images that the data set is expected to give. None: whatever it gives.
  std::optional<int64_t> resolution = std::nullopt;
  int64_t train_batch_size = 16;  ///< samples in a batch
  int64_t num_epochs = 100;       ///< passes through the dataset
  /// Number of steps. Overrides num_epochs. An IterableDataset without `size()` needs it.
  std::optional<int64_t> max_train_steps = std::nullopt;
  /// Batches whose gradients make one step. Equals one batch of their joint size, in the last group of an
  /// epoch as well, noise and timesteps included.
  int64_t gradient_accumulation_steps = 1;
  /// Recomputes activations in the backward pass, which saves memory and takes time.
  bool gradient_checkpointing = false;
  double learning_rate = 1e-4;  ///< learning rate, 0 or more
  /// Learning rate schedule; `get_scheduler` lists the names. The schedule counts the optimizer steps that
  /// were taken, without skipped ones, as accelerate does.
  std::string lr_scheduler = "cosine";
  /// Steps over which the learning rate rises from 0. "constant" and "piecewise_constant" have no warm-up: a
  /// value other than 0 and the default is an error there.
  int64_t lr_warmup_steps = 500;
  /// gamma of the min-SNR weighting of the loss, above 0; see DiffusionLossOptions. None: no such weighting.
  std::optional<double> snr_gamma = std::nullopt;
  /// Strength of additional noise that is constant over each channel of a sample (Guttenberg 2023). 0
  /// disables it.
  double noise_offset = 0.0;
  /// Strength of additional noise in the model's input that the target does not contain (Ning et al. 2023,
  /// arXiv 2301.11706). 0 disables it.
  double input_perturbation = 0.0;
  /// Dtype that the model computes in under autocast. The weights stay float32.
  EnumChoice<MixedPrecision> mixed_precision = MixedPrecision::kNo;
  /// Maximum gradient norm. 0 disables clipping.
  double max_grad_norm = 1.0;

  /// Keeps an exponential moving average (EMA) of the weights. Validation, previews and the final model use
  /// it. Without `use_ema`, the other EMA options may not be changed.
  bool use_ema = false;
  /// Class of the average: `EMAModel` of diffusers or `LitEma` of latent-diffusion.
  EnumChoice<EMAType> ema_type = EMAType::kEmaModel;
  /// How the decay rises (n counts the updates; `EMAModel::get_decay` and `LitEma::get_decay` are exact).
  /// EMAModel: true: 1 - (1 + n / ema_inv_gamma)^-ema_power, as in train_unconditional.py; false: (1 + n) /
  /// (10 + n), as in the Stable Diffusion scripts. LitEma: true: (1 + n) / (10 + n); false: it does not rise.
  bool use_ema_warmup = true;
  double ema_inv_gamma = 1.0;         ///< EMAModel with warm-up: see use_ema_warmup; above 0
  double ema_power = 0.75;            ///< EMAModel with warm-up: see use_ema_warmup
  double ema_max_decay = 0.9999;      ///< upper bound of the decay, in [0, 1]
  double ema_min_decay = 0.0;         ///< EMAModel: lower bound of the decay, in [0, ema_max_decay]
  int64_t ema_update_after_step = 0;  ///< EMAModel: steps at the start in which it copies the weights

  double adam_beta1 = 0.95;   ///< AdamW, Adam, Lion: decay of the first moment, in [0, 1)
  double adam_beta2 = 0.999;  ///< AdamW, Adam, Lion: decay of the second moment, in [0, 1). Lion: try 0.99
  double adam_weight_decay = 1e-6;  ///< weight decay of all optimizers. 0 disables it
  double adam_epsilon = 1e-8;       ///< AdamW, Adam: added to the root of the second moment
  /// Optimizer; see `OptimizerType`. Lion needs about a tenth of the learning rate of AdamW.
  EnumChoice<OptimizerType> optimizer = OptimizerType::kAdamW;

  /// Interval of the checkpoints in steps. 0 saves none but that of an interruption.
  int64_t checkpointing_steps = 500;
  /// Maximum number of checkpoints. Once a new one is complete, the oldest ones are removed. None keeps all.
  /// With 1 there is nothing to fall back on if the disk damages it.
  std::optional<int64_t> checkpoints_total_limit = std::nullopt;
  /// "latest", or the path of a checkpoint, or its name in output_dir. An older checkpoint of output_dir
  /// moves the newer ones to `abandoned-N/`.
  std::optional<std::string> resume_from_checkpoint = std::nullopt;
  /// Checkpoints are copied to the host's memory, and written while the training goes on; it waits for one
  /// only when the next is due. A training that is killed then loses up to two intervals, else one. False: no
  /// copy, and the training waits.
  bool background_checkpoints = true;
  /// Interval in steps of the validation and the preview callback. Both also run at the end. 0: at the end
  /// only. A value above 0 needs held-out data or a preview callback.
  int64_t validation_steps = 0;
  /// How often the loss is read from the device, logged and written to metrics.csv.
  int64_t logging_steps = 50;
  bool progress_bar = true;  ///< shows progress on standard output

  int64_t dataloader_num_workers = 0;  ///< threads that read batches ahead; at most 1 for an IterableDataset
  /// On the CPU: parts that each batch is cut into, one thread computing a part, forward and backward.
  /// Several are faster than LibTorch's threads for models of small layers. A run repeats bit for bit with
  /// the same number. Not for models that draw random numbers (dropout), nor for other devices.
  int64_t cpu_data_parallel = 1;
  /// Loss of one element. This and the next two: see DiffusionLossOptions.
  EnumChoice<LossType> loss_type = LossType::kL2;
  EnumChoice<HuberSchedule> huber_schedule = HuberSchedule::kConstant;  ///< how huber_c depends on t
  double huber_c = 0.1;                                                 ///< c of the Huber losses, above 0
  /// Mean of the normal number of DiffusionTaskOptions' `timestep_sampling` "logit_normal".
  double logit_mean = 0.0;
  double logit_std = 1.0;    ///< its standard deviation, above 0
  double mode_scale = 1.29;  ///< concentration of `timestep_sampling` "mode", -1 to 2 / (pi - 2)
  /// Which timesteps are drawn more often. This and the next four: see TimestepSamplingOptions.
  EnumChoice<TimestepBias> timestep_bias_strategy = TimestepBias::kNone;
  double timestep_bias_multiplier = 1.0;  ///< factor on the weight of these timesteps, above 0
  int64_t timestep_bias_begin = 0;        ///< first timestep of the bias "range"
  int64_t timestep_bias_end = 1000;       ///< end of the bias "range", not included
  double timestep_bias_portion = 0.25;    ///< share of the timesteps of "earlier" and "later", 0 to 1
  /// Patterns of the names of the only parameters that are trained, with `*` and `?` (see matches_pattern).
  /// Empty: all. Parameters of other modules than the first have the module's name before their own, such as
  /// "log_variance.logvar".
  std::vector<std::string> train_only = {};
  std::vector<std::string> freeze = {};  ///< patterns of the names of parameters that are not trained
  /// Patterns of the names of parameters without weight decay. A pattern that fits no trained parameter is an
  /// error. Needs a weight decay above 0.
  std::vector<std::string> no_decay = {};
  /// No weight decay for biases and for the parameters of norm layers. Needs a weight decay above 0.
  bool no_weight_decay_on_bias_and_norm = false;
  /// Factors on the learning rate by parameter name. If several patterns fit a name, the last one counts. A
  /// pattern that fits no trained parameter is an error.
  std::vector<LearningRateFactor> lr_factors = {};
  bool adam_amsgrad = false;            ///< AdamW, Adam: divide by the largest second moment so far
  double sgd_momentum = 0.0;            ///< SGD: momentum. 0 disables it
  double sgd_dampening = 0.0;           ///< SGD with momentum: the buffer takes (1 - dampening) * gradient
  bool sgd_nesterov = false;            ///< SGD: Nesterov momentum; needs sgd_momentum and no dampening
  double adafactor_beta2_decay = -0.8;  ///< Adafactor: step t averages with beta2 = 1 - t^beta2_decay
  /// Adafactor: lower bound of the root mean square of a gradient. None: machine epsilon.
  std::optional<double> adafactor_eps1 = std::nullopt;
  double adafactor_eps2 = 1e-3;  ///< Adafactor: lower bound of the root mean square of a parameter
  double adafactor_d = 1.0;      ///< Adafactor: upper bound of the root mean square of an update
  /// Relative widths of power-function averages that are kept beside the EMA, so that the average of any
  /// width can be computed after the training (EDM2 uses 0.05 and 0.10); see PostHocEma.
  std::vector<double> post_hoc_ema_sigma_rels = {};
  /// Interval in steps at which snapshots of these averages are written to `power_ema/MODEL/`; also at the
  /// end.
  int64_t post_hoc_ema_steps = 1000;
  bool tensorboard = true;           ///< writes event files into `logging_dir`
  std::string logging_dir = "logs";  ///< in output_dir
  bool report = true;                ///< writes report.html at the end
  int64_t validation_samples = 256;  ///< Held-out data: number of samples, from the first one on
  int64_t validation_bins = 10;      ///< Held-out data: parts of the noise schedule with a loss of their own
  int64_t lr_num_cycles = 1;         ///< "cosine_with_restarts": number of cycles
  double lr_power = 1.0;             ///< "polynomial": exponent of the decay
  std::string lr_step_rules = {};    ///< "piecewise_constant": see `LRSchedulerOptions::step_rules`
  /// Number of consecutive non-finite steps that end the training with an Error. A step is non-finite if its
  /// loss or a gradient is not finite; it is skipped. With fp16 an overflow only shrinks the loss scale, and
  /// counts as non-finite once the scale has fallen to 1 or below.
  int64_t max_nonfinite_steps = 5;
  /// Removes what an earlier run wrote into output_dir, and nothing else. Without it, a new run refuses a
  /// folder that holds checkpoints, a finished model or snapshots of averages.
  bool overwrite_output_dir = false;
  /// Has LibTorch choose algorithms that repeat bit for bit, and refuse the operations that have none
  /// (torch.use_deterministic_algorithms). On the CPU a run repeats anyway. A CUDA device also needs
  /// CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment.
  bool deterministic = false;
  /// SIGINT, SIGTERM and SIGUSR1 save a checkpoint and end the training after the current step; the same one
  /// again ends the program at once.
  bool handle_signals = false;

  /// Checks the ranges of the fields, and refuses a changed field that has no effect with the other fields,
  /// such as sgd_momentum with AdamW.
  /// @throws ConfigError naming the field and its value
  void validate() const;
  /// Returns all fields as a JSON object.
  std::string to_json() const;
};

}  // namespace diffusers

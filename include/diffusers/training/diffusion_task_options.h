#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include <diffusers/core/enum_choice.h>
#include <diffusers/data/dataset.h>
#include <diffusers/models/conditioning.h>
#include <diffusers/training/learned_log_variance.h>
#include <diffusers/training/loss_options.h>
#include <diffusers/training/timestep_sampler.h>

namespace diffusers {

/// Computes the inputs of a denoiser besides the noisy sample and its timestep, such as text embeddings. The
/// batch is on the device of the model. The result must be on that device and have one row for each sample.
using ConditioningFunction = std::function<Conditioning(const Batch& batch)>;

/// Options of a DiffusionTask besides the flags of diffusers' training scripts, which TrainingConfig has. The
/// task throws ConfigError for an option that was changed from its default and has no effect, such as
/// `p2_gamma` without the weighting `p2`. A training can be resumed only with the same options.
struct DiffusionTaskOptions {
  /// Weight of the loss at a timestep. If it is `none` and TrainingConfig's `snr_gamma` is set, the weighting
  /// is `min_snr`.
  EnumChoice<LossWeighting> weighting = LossWeighting::kNone;
  /// gamma of the weighting `p2`, 0 or more. Only for `p2`.
  double p2_gamma = 1.0;
  /// k of the weighting `p2`, above 0. Only for `p2`.
  double p2_k = 1.0;
  /// Standard deviation of the data, above 0. Only for the weighting `edm`.
  double sigma_data = 0.5;
  /// Factor on the weighted loss, 0 or more. See DiffusionLossOptions.
  double l_simple_weight = 1.0;
  /// Factor on the loss with the weights of the variational bound, 0 or more. See DiffusionLossOptions.
  double original_elbo_weight = 0.0;
  /// Factor on the variational bound that trains a learned variance, 0 or more. Only for a scheduler with the
  /// `variance_type` "learned" or "learned_range". None: T / 1000.
  std::optional<double> vlb_weight = std::nullopt;

  /// Distribution of the timesteps; see `TimestepSampling`. Its parameters are TrainingConfig's `logit_mean`,
  /// `logit_std`, `mode_scale` and `timestep_bias_*`.
  EnumChoice<TimestepSampling> timestep_sampling = TimestepSampling::kUniform;
  /// True draws sigma from a continuous range. False draws the sigmas of the scheduler's timesteps. Only for
  /// flow matching.
  bool continuous_timesteps = false;

  /// Number of levels of multi-resolution noise, 0 or more; see `pyramid_noise`. 0 disables it.
  int64_t pyramid_noise_iterations = 0;
  /// Ratio of the strengths of successive levels, 0 to 1. Only with `pyramid_noise_iterations`.
  double pyramid_noise_discount = 0.4;

  /// Parametrisation of a learned log variance u of the loss: `table` (latent diffusion's `learn_logvar`) or
  /// `fourier` (EDM2). The loss becomes loss / exp(u) + u. u is trained, averaged and saved beside the model,
  /// in `log_variance/`. See LearnedLogVarianceImpl.
  EnumChoice<LogVarianceType> learned_log_variance = LogVarianceType::kNone;
  /// Initial value of the table, finite. Only for `learned_log_variance` "table".
  double logvar_init = 0.0;

  /// Passes the class labels of the dataset to the model. None: true if the model takes labels and the
  /// dataset has them. It may not be set together with `conditioning`.
  std::optional<bool> class_conditional = std::nullopt;
  /// Probability that the label of a sample is replaced by the model's last class, `num_class_embeds - 1`, in
  /// [0, 1). That class then means "no class" in classifier-free guidance (Ho and Salimans 2022, arXiv
  /// 2207.12598). No sample of the dataset may have that label. 0 disables it.
  double class_dropout_prob = 0.0;
  /// Computes the conditioning of a batch, such as text embeddings of its captions. Empty: the conditioning
  /// is the class labels.
  ConditioningFunction conditioning = {};
};

}  // namespace diffusers

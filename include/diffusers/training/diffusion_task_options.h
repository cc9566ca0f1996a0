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

/// Computes the inputs of a denoiser besides the noisy sample and its timestep. The batch is on the device of
/// the model; the result must be as well, with one row for each sample.
using ConditioningFunction = std::function<Conditioning(const Batch& batch)>;

/// Options of a DiffusionTask that are no flags of diffusers' training scripts; TrainingConfig has the flags.
/// An option that was changed and has no effect is refused with a ConfigError, such as `p2_gamma` without the
/// weighting `p2`. A training is resumed only with the options that it was started with.
struct DiffusionTaskOptions {
  /// Weight of the loss of a timestep. TrainingConfig's `snr_gamma` alone selects `min_snr`.
  EnumChoice<LossWeighting> weighting = LossWeighting::kNone;
  /// gamma of the weighting `p2`, at least 0.
  double p2_gamma = 1.0;
  /// k of the weighting `p2`, above 0.
  double p2_k = 1.0;
  /// Standard deviation of the data, above 0; for the weighting `edm`.
  double sigma_data = 0.5;
  /// Factor of the weighted loss, at least 0. See DiffusionLossOptions.
  double l_simple_weight = 1.0;
  /// Factor of the loss with the weights of the variational bound, at least 0. See DiffusionLossOptions.
  double original_elbo_weight = 0.0;
  /// Factor of the variational bound that trains a learned variance, at least 0. None: T / 1000.
  std::optional<double> vlb_weight = std::nullopt;

  /// How timesteps are drawn. `logit_mean`, `logit_std`, `mode_scale` and `timestep_bias_*` are fields of
  /// TrainingConfig.
  EnumChoice<TimestepSampling> timestep_sampling = TimestepSampling::kUniform;
  /// True draws any sigma in flow matching. False draws those of the scheduler's timesteps.
  bool continuous_timesteps = false;

  /// Levels of multi-resolution noise (see `pyramid_noise`). 0 disables it.
  int64_t pyramid_noise_iterations = 0;
  /// Factor of each level of multi-resolution noise against the one before, 0 to 1.
  double pyramid_noise_discount = 0.4;

  /// A learned u of each timestep, with which the loss becomes loss / exp(u) + u: a table (latent diffusion's
  /// `learn_logvar`) or Fourier features of t / T (EDM2). It is trained, averaged and saved beside the model,
  /// in `log_variance/`.
  EnumChoice<LogVarianceType> learned_log_variance = LogVarianceType::kNone;
  /// Initial value of the table of a learned log variance.
  double logvar_init = 0.0;

  /// Whether the model receives the class labels of the dataset. None: if the model takes labels and the
  /// dataset has them. Not used with `conditioning`.
  std::optional<bool> class_conditional = std::nullopt;
  /// Probability, 0 to less than 1, that the label of a sample is replaced by the model's last class,
  /// `num_class_embeds - 1`. That class then means "no class" in classifier-free guidance (Ho and Salimans
  /// 2022, arXiv 2207.12598).
  double class_dropout_prob = 0.0;
  /// Computes the conditioning of a batch, such as text embeddings of its captions. Empty: the class labels.
  ConditioningFunction conditioning = {};
};

}  // namespace diffusers

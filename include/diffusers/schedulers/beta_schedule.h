#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/schedulers/enums.h>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// The shape of abar(t) over t in [0, 1] that `betas_for_alpha_bar` discretizes.
enum class AlphaTransformType {
  kCosine,  ///< cos^2((t + 0.008) / 1.008 pi / 2) (Nichol and Dhariwal 2021, eq. 17).
  kExp,     ///< exp(-12 t).
  kLaplace  ///< SNR of a Laplace distribution; the log-SNR has the scale 0.5.
};

/// Computes beta_i = min(1 - abar((i + 1) / T) / abar(i / T), max_beta) in double and rounds it to float32
/// (Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 17).
/// @param num_diffusion_timesteps T, 1 or more
/// @param max_beta largest beta, which keeps abar above 0
/// @param alpha_transform_type shape of abar
/// @return float32 `[num_diffusion_timesteps]`
at::Tensor betas_for_alpha_bar(int64_t num_diffusion_timesteps, double max_beta = 0.999,
                               AlphaTransformType alpha_transform_type = AlphaTransformType::kCosine);

/// Shifts and scales sqrt(abar) so that the SNR of the last timestep is zero (Lin et al. 2023, arXiv
/// 2305.08891, algorithm 1).
/// @param betas floating `[T]`, T >= 2
/// @return the new betas, of the same shape and dtype; the last one is 1
at::Tensor rescale_zero_terminal_snr(const at::Tensor& betas);

/// The fields of a scheduler's config that define its betas.
struct BetaOptions {
  /// Number of training timesteps T, 1 to 10^7.
  int64_t num_train_timesteps = 1000;
  /// beta of the first training timestep, 0 to 1.
  double beta_start = 0.0001;
  /// beta of the last training timestep, 0 to 1.
  double beta_end = 0.02;
  /// Beta schedule.
  EnumChoice<BetaSchedule> beta_schedule = BetaSchedule::kLinear;
  /// Explicit betas, at least T numbers from 0 to 1. Empty: `beta_schedule` defines the betas.
  std::vector<double> trained_betas = {};
  /// Rescales the betas so that the last training timestep holds no signal.
  bool rescale_betas_zero_snr = false;
};

/// Computes the betas of the forward process, bit for bit as Python does. `beta_start` above `beta_end` is
/// allowed.
/// @param options the fields of the config
/// @return float32 `[num_train_timesteps]` on the CPU
/// @throws ConfigError unless 1 <= num_train_timesteps <= 10^7 and every beta is in [0, 1], or if
///         `trained_betas` holds fewer than num_train_timesteps values
at::Tensor make_betas(const BetaOptions& options);

}  // namespace diffusers

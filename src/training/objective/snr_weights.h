#pragma once

#include <diffusers/core/tensor.h>
#include <diffusers/schedulers/enums.h>
#include <diffusers/training/loss_options.h>

namespace diffusers {
inline namespace internal {

/// Squared factors of x_0 and of the noise in x_t = sqrt(signal) x_0 + sqrt(noise) eps, for each timestep,
/// float64. Variance preserving processes have abar_t and 1 - abar_t; flow matching has
/// (1 - sigma)^2 and sigma^2.
struct SignalAndNoise {
  Tensor signal, noise;
};

/// abar_t and 1 - abar_t of the float32 table that `add_noise` uses.
SignalAndNoise signal_and_noise(const Tensor& alphas_cumprod);

/// Factor between the squared error of the prediction and that of x_0: (d x_0 / d prediction)^2.
Tensor squared_error_factor(const SignalAndNoise& levels, PredictionType prediction_type);

/// Weight of the squared error of the prediction with `options.weighting`, float64.
Tensor snr_weights(const SignalAndNoise& levels, PredictionType prediction_type,
                   const DiffusionLossOptions& options);

/// Weight of the squared error of the prediction in the variational bound. The term at t = 0 is not a squared
/// error; as in latent diffusion, it gets the weight of an error of epsilon at t = 1.
Tensor elbo_weights(const SignalAndNoise& levels, PredictionType prediction_type);

/// gamma of `min_snr` and `soft_min_snr`.
double snr_gamma_of(const DiffusionLossOptions& options);
/// Returns `weighting`, or `min_snr` if only `snr_gamma` is set.
LossWeighting weighting_of(const DiffusionLossOptions& options);
/// @throws ConfigError naming an option that is out of range or has no effect
void validate_loss_options(const DiffusionLossOptions& options);

}  // namespace internal
}  // namespace diffusers

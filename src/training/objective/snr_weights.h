#pragma once

#include <diffusers/core/tensor.h>
#include <diffusers/schedulers/enums.h>
#include <diffusers/training/loss_options.h>

namespace diffusers {

/// x_t = sqrt(signal) x_0 + sqrt(noise) eps, one value for each timestep, float64. Variance preserving
/// schedules have signal = abar_t, noise = 1 - abar_t; flow matching (1 - sigma)^2 and sigma^2.
struct SignalAndNoise {
  Tensor signal, noise;
};

/// abar_t and 1 - abar_t of the float32 table that `add_noise` uses.
SignalAndNoise signal_and_noise(const Tensor& alphas_cumprod);

/// What an error of the prediction, squared, is in x_0: (d x_0 / d prediction)^2.
Tensor squared_error_factor(const SignalAndNoise& levels, PredictionType prediction_type);

/// The weight that `options.weighting` gives the squared error of the prediction, float64.
Tensor snr_weights(const SignalAndNoise& levels, PredictionType prediction_type,
                   const DiffusionLossOptions& options);

/// The weight that the variational bound gives it. Its term at t = 0 is not a squared error; as in LDM, the
/// weight of an error of epsilon at t = 1 stands there.
Tensor elbo_weights(const SignalAndNoise& levels, PredictionType prediction_type);

/// gamma of `min_snr` and `soft_min_snr`.
double snr_gamma_of(const DiffusionLossOptions& options);
/// `weighting`, or `min_snr` where `snr_gamma` is given alone.
LossWeighting weighting_of(const DiffusionLossOptions& options);
/// @throws ConfigError naming an option that no weighting can have, or that the chosen one does not know
void validate_weighting(const DiffusionLossOptions& options);

}  // namespace diffusers

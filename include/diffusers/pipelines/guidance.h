#pragma once

#include <diffusers/core/tensor.h>
#include <diffusers/models/conditioning.h>

namespace diffusers {

/// Options of `classifier_free_guidance`.
struct GuidanceOptions {
  double guidance_scale = 7.5;  ///< w in uncond + w (cond - uncond); 1: only the conditional prediction
  /// phi in Lin et al. 2024, section 3.4. 0 does not change the guided prediction. 1 rescales it to the
  /// standard deviation of the conditional prediction.
  double guidance_rescale = 0.0;
};

/// Makes a denoiser with classifier-free guidance (Ho and Salimans 2022, eq. 6, where guidance_scale is w +
/// 1). It calls `denoiser` once with a batch of twice the size and combines both halves:
///
///     const Conditioning both{.class_labels = at::cat({no_class, labels})};   // unconditional rows first
///     sampling_loop(ddim, classifier_free_guidance(make_denoiser(unet), {.guidance_scale = 3}), both,
///     noise);
///
/// @param denoiser the model, for example from `make_denoiser`
/// @param options scale and rescaling
/// @return a Denoiser that takes samples `[B, C, H, W]` and a Conditioning whose fields have 2 B rows: the
///   unconditional rows, then the conditional rows. It throws TensorError if a field has another number of
///   rows.
/// @throws ConfigError if `denoiser` is empty or an option is not a finite number
Denoiser classifier_free_guidance(Denoiser denoiser, const GuidanceOptions& options = {});

/// Rescales a guided prediction to the standard deviation of the conditional prediction (Lin et al. 2024, eq.
/// 15 and 16; Python: `rescale_noise_cfg`).
/// @param guided the prediction after guidance, `[B, C, H, W]`
/// @param conditional the prediction with the condition, same shape
/// @param guidance_rescale interpolates between `guided` (0) and the rescaled prediction (1)
/// @return a tensor of the same shape
Tensor rescale_guidance(const Tensor& guided, const Tensor& conditional, double guidance_rescale);

}  // namespace diffusers

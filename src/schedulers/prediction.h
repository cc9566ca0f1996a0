#pragma once

// Conversion of the prediction of a model to x_0 or epsilon, for all prediction types.

#include <diffusers/core/tensor.h>
#include <diffusers/schedulers/enums.h>

namespace diffusers {
inline namespace internal {

/// alpha_t and sigma_t of the sample x_t = alpha_t x_0 + sigma_t eps at a noise level: variance preserving
/// with sigma = sigma_t / alpha_t, or the straight path of flow matching.
struct NoiseLevel {
  float alpha;
  float sigma;
  /// Returns log(alpha / sigma), half of the log-SNR.
  float lambda() const;
};
NoiseLevel noise_level(float sigma, bool flow);

/// Computes x_0 from the prediction at a noise level (epsilon: Ho et al. 2020, eq. 15; v: Salimans and Ho
/// 2022, appendix D). A prediction of x_0 is returned unchanged.
Tensor data_prediction(PredictionType type, const Tensor& model_output, const Tensor& sample,
                       const NoiseLevel& level);
/// Computes x_0 from the prediction at abar_t. If abar_t is 0, the division uses the smallest positive number
/// instead: a difference of 0 gives 0, and clipping makes any other result finite.
Tensor data_prediction(PredictionType type, const Tensor& model_output, const Tensor& sample,
                       float alpha_bar);

/// Computes epsilon from the prediction at a noise level. A prediction of epsilon is returned unchanged.
Tensor noise_prediction(PredictionType type, const Tensor& model_output, const Tensor& sample,
                        const NoiseLevel& level);
/// Computes epsilon from the prediction at abar_t.
Tensor noise_prediction(PredictionType type, const Tensor& model_output, const Tensor& sample,
                        float alpha_bar);

/// Computes x_0 from a prediction of epsilon, v or x_0 in the coordinates of Karras et al. 2022, where x =
/// x_0 + sigma eps.
Tensor karras_data_prediction(PredictionType type, const Tensor& model_output, const Tensor& sample,
                              float sigma);

}  // namespace internal
}  // namespace diffusers

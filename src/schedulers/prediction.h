#pragma once

// How the prediction of a model becomes x_0 or epsilon: the one place for every prediction type.

#include <diffusers/core/tensor.h>
#include <diffusers/schedulers/enums.h>

namespace diffusers {
inline namespace internal {

/// alpha_t and sigma_t of the sample x_t = alpha_t x_0 + sigma_t eps at a noise level: variance preserving
/// with sigma = sigma_t / alpha_t, or the straight path of flow matching.
struct NoiseLevel {
  float alpha;
  float sigma;
  /// log(alpha / sigma), half the logarithm of the signal-to-noise ratio
  float lambda() const;
};
NoiseLevel noise_level(float sigma, bool flow);

/// x_0 from the prediction at a noise level: Ho et al. 2020, eq. 15 for epsilon; Salimans and Ho 2022,
/// appendix D for v. A prediction that is x_0 already is returned itself.
Tensor data_prediction(PredictionType type, const Tensor& model_output, const Tensor& sample,
                       const NoiseLevel& level);
/// The same at abar_t. Where abar_t is 0, epsilon is divided by the smallest number instead: a difference of
/// 0 gives 0, and clipping makes any other finite.
Tensor data_prediction(PredictionType type, const Tensor& model_output, const Tensor& sample,
                       float alpha_bar);

/// epsilon from the prediction at a noise level. A prediction that is epsilon already is returned itself.
Tensor noise_prediction(PredictionType type, const Tensor& model_output, const Tensor& sample,
                        const NoiseLevel& level);
/// The same at abar_t.
Tensor noise_prediction(PredictionType type, const Tensor& model_output, const Tensor& sample,
                        float alpha_bar);

/// x_0 in the coordinates of Karras et al., where x = x_0 + sigma eps: epsilon, v_prediction, or x_0 itself.
Tensor karras_data_prediction(PredictionType type, const Tensor& model_output, const Tensor& sample,
                              float sigma);

}  // namespace internal
}  // namespace diffusers

#include "schedulers/prediction.h"

#include <ATen/ATen.h>

#include "schedulers/step_math.h"

namespace diffusers {
inline namespace internal {

float NoiseLevel::lambda() const { return torch_log(alpha) - torch_log(sigma); }

NoiseLevel noise_level(float sigma, bool flow) {
  if (flow) return {1 - sigma, sigma};
  const float alpha = 1 / torch_sqrt(sigma * sigma + 1);
  return {alpha, sigma * alpha};
}

Tensor data_prediction(PredictionType type, const Tensor& model_output, const Tensor& sample,
                       const NoiseLevel& level) {
  switch (type) {
    case PredictionType::kEpsilon:
      return plus_scaled(sample, -level.sigma, model_output).div_(level.alpha);
    case PredictionType::kVPrediction:
      return weighted_sum(level.alpha, sample, -level.sigma, model_output);
    case PredictionType::kFlowPrediction:
      return plus_scaled(sample, -level.sigma, model_output);
    default:
      return model_output;
  }
}

Tensor data_prediction(PredictionType type, const Tensor& model_output, const Tensor& sample,
                       float alpha_bar) {
  if (type == PredictionType::kSample) return model_output;
  const float alpha = type == PredictionType::kEpsilon ? signal_scale(alpha_bar) : torch_sqrt(alpha_bar);
  return data_prediction(type, model_output, sample, NoiseLevel{alpha, torch_sqrt(1 - alpha_bar)});
}

Tensor noise_prediction(PredictionType type, const Tensor& model_output, const Tensor& sample,
                        const NoiseLevel& level) {
  switch (type) {
    case PredictionType::kSample:
      return plus_scaled(sample, -level.alpha, model_output).div_(level.sigma);
    case PredictionType::kVPrediction:
      return weighted_sum(level.alpha, model_output, level.sigma, sample);
    default:
      return model_output;
  }
}

Tensor noise_prediction(PredictionType type, const Tensor& model_output, const Tensor& sample,
                        float alpha_bar) {
  if (type == PredictionType::kEpsilon) return model_output;
  return noise_prediction(type, model_output, sample,
                          NoiseLevel{torch_sqrt(alpha_bar), torch_sqrt(1 - alpha_bar)});
}

Tensor karras_data_prediction(PredictionType type, const Tensor& model_output, const Tensor& sample,
                              float sigma) {
  switch (type) {
    case PredictionType::kEpsilon:
      return plus_scaled(sample, -sigma, model_output);
    case PredictionType::kVPrediction: {
      const float squared = sigma * sigma + 1;
      return add_scaled(at::mul(model_output, -sigma / torch_sqrt(squared)), 1, at::div(sample, squared));
    }
    default:
      return model_output;
  }
}

}  // namespace internal
}  // namespace diffusers

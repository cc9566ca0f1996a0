#include "models/unet/unet_inputs.h"

#include <cmath>

#include <torch/types.h>

#include "core/require.h"

namespace diffusers {
inline namespace internal {
namespace {

/// Number that is added to the scores of masked tokens, as in Python.
constexpr double kMaskedScore = -10000.0;

}  // namespace

void check_unet_timestep(const at::Scalar& timestep) {
  require<TensorError>(!timestep.isComplex() && !timestep.isBoolean() && std::isfinite(timestep.toDouble()) &&
                           std::abs(timestep.toDouble()) < 9e18,
                       "timestep: expected a finite number");
}

Tensor unet_timestep(const at::Scalar& timestep) {
  check_unet_timestep(timestep);
  return timestep.isFloatingPoint() ? torch::full({}, timestep.toDouble(), torch::kDouble)
                                    : torch::full({}, timestep.toLong(), torch::kLong);
}

Tensor broadcast_unet_timesteps(const Tensor& timesteps, const Tensor& sample) {
  const auto batch = sample.size(0);
  require<TensorError>(timesteps.defined(), "timesteps: expected a tensor, got an undefined one");
  require<TensorError>(timesteps.dim() == 0 ||
                           (timesteps.dim() == 1 && (timesteps.size(0) == batch || timesteps.size(0) == 1)),
                       "timesteps: expected [{}] or a single one for a sample of {}, got {}", batch,
                       shape_string(sample.sizes()), describe(timesteps));
  const auto dtype = timesteps.scalar_type();
  require<TensorError>(at::isFloatingType(dtype) || at::isIntegralType(dtype, /*includeBool=*/false),
                       "timesteps: expected integers or real numbers, got {}", describe(timesteps));
  require<TensorError>(timesteps.dim() == 0 || timesteps.device() == sample.device(),
                       "timesteps are on {}, the sample on {}", timesteps.device().str(),
                       sample.device().str());
  return (timesteps.dim() == 0 ? timesteps.unsqueeze(0).to(sample.device()) : timesteps).expand({batch});
}

void check_index_range(const Tensor& indices, int64_t rows, std::string_view what, std::string_view key) {
  if (!indices.is_cpu() || indices.numel() == 0) return;
  const auto lowest = indices.min().item<int64_t>();
  const auto highest = indices.max().item<int64_t>();
  require<TensorError>(lowest >= 0 && highest < rows, "{}: expected numbers in [0, {} = {}), got {}", what,
                       key, rows, lowest < 0 ? lowest : highest);
}

Tensor one_label_for_each(const Tensor& class_labels, int64_t batch) {
  auto labels = class_labels.dim() == 0 ? class_labels.unsqueeze(0) : class_labels;
  require<TensorError>(labels.dim() == 1 && (labels.size(0) == batch || labels.size(0) == 1),
                       "class_labels: expected [{}], got {}", batch, describe(class_labels));
  require<TensorError>(
      labels.is_floating_point() || at::isIntegralType(labels.scalar_type(), /*includeBool=*/false),
      "class_labels: expected numbers, got {}", describe(class_labels));
  return labels;
}

Tensor class_indices(const Tensor& labels, int64_t rows, std::string_view key) {
  require<TensorError>(!labels.is_floating_point(), "class_labels: expected integers, got {}",
                       describe(labels));
  check_index_range(labels, rows, "class_labels", key);
  return labels.to(torch::kLong);
}

Tensor attention_bias(const Tensor& mask, const Tensor& sample, std::string_view what) {
  if (!mask.defined()) return {};
  require<TensorError>(mask.dim() == 2 && (mask.size(0) == sample.size(0) || mask.size(0) == 1) &&
                           mask.device() == sample.device() && !mask.is_complex(),
                       "{}: expected [{}, tokens] on {}, got {}", what, sample.size(0), sample.device().str(),
                       describe(mask));
  return ((1 - mask.to(sample.scalar_type())) * kMaskedScore).unsqueeze(1).unsqueeze(1);
}

}  // namespace internal
}  // namespace diffusers

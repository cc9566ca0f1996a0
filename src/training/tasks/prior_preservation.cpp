#include "training/tasks/prior_preservation.h"

#include <algorithm>
#include <cmath>

#include <ATen/ATen.h>

#include "core/require.h"

namespace diffusers {
inline namespace internal {

void require_prior_loss_weight(double prior_loss_weight) {
  require<ConfigError>(std::isfinite(prior_loss_weight) && prior_loss_weight >= 0,
                       "prior_loss_weight is {}, expected 0 or more", prior_loss_weight);
}

void check_prior(const Batch& batch, double prior_loss_weight) {
  const Tensor& is_prior = batch.is_prior;
  if (!is_prior.defined()) {
    require<ConfigError>(prior_loss_weight == 1,
                         "prior_loss_weight is {}, but the dataset gives no class images (Batch::is_prior); "
                         "DreamBoothDataset reads them from class_data_dir",
                         prior_loss_weight);
    return;
  }
  require<TensorError>(
      is_prior.dim() == 1 && is_prior.size(0) == batch.images.size(0) && is_prior.scalar_type() == at::kBool,
      "is_prior is {}, expected bool [{}]", describe(is_prior), batch.images.size(0));
}

bool have_class_images(const std::vector<Batch>& batches) {
  const auto is_halved = [](const Batch& batch) {
    if (batch.size() == 0) return true;  // of a process without samples
    const Tensor& is_prior = batch.is_prior;
    if (!is_prior.defined() || !is_prior.is_cpu() || is_prior.dim() != 1 || is_prior.size(0) % 2 != 0 ||
        is_prior.scalar_type() != at::kBool)
      return false;
    const int64_t half = is_prior.size(0) / 2;
    return !is_prior.narrow(0, 0, half).any().item<bool>() &&
           is_prior.narrow(0, half, half).all().item<bool>();
  };
  const bool has_samples =
      std::any_of(batches.begin(), batches.end(), [](const Batch& batch) { return batch.size() > 0; });
  return has_samples && std::all_of(batches.begin(), batches.end(), is_halved);
}

Tensor weigh_prior(const Tensor& losses, const Tensor& is_prior, double prior_loss_weight) {
  if (!is_prior.defined()) return losses;
  const auto rows = static_cast<double>(losses.size(0));
  const Tensor prior = is_prior.to(losses.scalar_type());
  const Tensor count = prior.sum();
  // A batch may have images of one kind only, whose number is then not 0.
  const Tensor of_instance = rows / (rows - count).clamp_min(1);
  const Tensor of_class = prior_loss_weight * rows / count.clamp_min(1);
  return losses * ((1 - prior) * of_instance + prior * of_class);
}

}  // namespace internal
}  // namespace diffusers

#pragma once

// Prior preservation of DreamBooth (Ruiz et al. 2022, section 3.3): a batch holds images of the instance and
// of its class.

#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/data/batch.h>

namespace diffusers {
inline namespace internal {

/// Checks the weight of the loss of the class images.
/// @throws ConfigError if it is negative or not finite
void require_prior_loss_weight(double prior_loss_weight);

/// Checks `Batch::is_prior` by its shape.
/// @throws TensorError for another shape or dtype; ConfigError if a weight is set for images that the dataset
///   does not give
void check_prior(const Batch& batch, double prior_loss_weight);

/// Returns true if each batch is in host memory and holds as many instances as class images, the instances
/// first.
bool have_class_images(const std::vector<Batch>& batches);

/// Weighs the losses of a batch. Their mean becomes the mean over the instances plus `prior_loss_weight`
/// times the mean over the class images.
/// @param losses `[B]`
/// @param is_prior `[B]` bool on the same device; undefined: the losses are returned as they are
/// @return `[B]`
Tensor weigh_prior(const Tensor& losses, const Tensor& is_prior, double prior_loss_weight);

}  // namespace internal
}  // namespace diffusers

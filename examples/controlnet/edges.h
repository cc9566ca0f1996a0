#pragma once

// Edges of gray images: the conditioning images of mnist_controlnet, and the comparison of two sets of edges.

#include <cstdint>
#include <memory>
#include <span>

#include <diffusers/core/tensor.h>
#include <diffusers/data/dataset.h>

/// Computes the edges of images with Sobel's filter: 1 where the gradient is above half of that of a sharp
/// step from black to white, else 0. The images are continued with black. The edges of an image do not depend
/// on the rest of the batch.
/// @param images `[B, 1, H, W]` floating in [-1, 1]
/// @return shape and dtype of images, 0 or 1
diffusers::Tensor edge_map(const diffusers::Tensor& images);

/// How well edges fit the edges that were asked for, as the mean over the images of the F-score
/// 2 P R / (P + R). The precision P is the share of the found pixels that have a wanted pixel at a distance
/// of at most one pixel, also diagonally. The recall R is the share of the wanted pixels that have such a
/// found pixel. An image without found or without wanted pixels has the F-score 0, or 1 if it has neither.
/// @param found `[B, 1, H, W]` floating, 0 or 1
/// @param wanted shape of found, 0 or 1
/// @return mean F-score in [0, 1]
double edge_f_score(const diffusers::Tensor& found, const diffusers::Tensor& wanted);

/// A dataset with the edges of its images as conditioning images.
class WithEdges : public diffusers::Dataset {
 public:
  /// @param images gray images
  explicit WithEdges(std::shared_ptr<const diffusers::Dataset> images);

  int64_t size() const override { return images_->size(); }
  /// Reads samples.
  /// @return the batch of the dataset with conditioning_images `[B, 3, H, W]`, whose channels are equal:
  ///   Python's pipelines convert a conditioning image to RGB
  diffusers::Batch get_batch(std::span<const int64_t> indices, uint64_t augmentation_seed = 0) const override;

 private:
  std::shared_ptr<const diffusers::Dataset> images_;
};

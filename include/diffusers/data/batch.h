#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <diffusers/core/tensor.h>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// The samples that a dataset gives, before any encoding. Row i of every field belongs to sample i. Each
/// field except `images` is optional: a tensor may be undefined and `captions` may be empty.
struct Batch {
  /// `[B, C, H, W]` float32 in [-1, 1].
  Tensor images = {};
  /// `[B]` int64, each in [0, `Dataset::class_count()`).
  Tensor class_labels = {};
  /// B texts in UTF-8, or none.
  std::vector<std::string> captions = {};
  /// `[B, C, H, W]` float32 in [0, 1]: the input of a ControlNet or an adapter, as ControlNet's script passes
  /// it.
  Tensor conditioning_images = {};
  /// `[B, C, H, W]` float32 in [-1, 1]: the input of InstructPix2Pix; `images` then holds the edited images.
  Tensor original_images = {};
  /// `[B, 1, H, W]` float32, 1 where an image is to be inpainted and 0 elsewhere.
  Tensor masks = {};
  /// `[B, 2]` int64, (height, width) of each image before it was resized: SDXL's micro-conditioning. Host
  /// memory.
  Tensor original_sizes = {};
  /// `[B, 2]` int64, (top, left) of the crop in the resized image: SDXL's micro-conditioning. Host memory.
  Tensor crop_top_lefts = {};
  /// `[B]` int64, position of each sample in the dataset: the key of a cache. Host memory.
  Tensor indices = {};
  /// `[B]` bool, true for the class images of DreamBooth's prior preservation.
  Tensor is_prior = {};

  /// Returns the number of samples: the rows of the first field that is set. 0 if none is set.
  int64_t size() const;

  /// Returns the batch with the fields that a model reads on `device`. The copies do not block the host if
  /// they come from page-locked memory. `original_sizes`, `crop_top_lefts` and `indices` stay where they are:
  /// the host reads them, and Python's SDXL script keeps them in lists. A field that is already there is
  /// shared, not copied.
  /// @param device destination of images, class_labels, conditioning_images, original_images, masks and
  ///         is_prior
  /// @param dtype floating dtype of the image fields (images, conditioning_images, original_images, masks);
  ///         an image field that is not floating keeps its dtype. Without a value every dtype is kept.
  /// @return a batch of the same size
  Batch to(at::Device device, std::optional<at::ScalarType> dtype = std::nullopt) const;

  /// Returns the batch with the fields that `to` copies in page-locked memory, from which a CUDA device
  /// copies without blocking the host. Tensors that are on a device are shared.
  /// @return a batch of the same size
  /// @throws Error if there is no CUDA device
  Batch pin_memory() const;

  /// Returns the samples [begin, end). The tensors are views of this batch's tensors.
  /// @param begin first sample, in [0, size()]
  /// @param end one past the last sample, in [begin, size()]
  /// @throws TensorError if the range is not within the batch
  Batch slice(int64_t begin, int64_t end) const;
};

/// Joins batches into one, in their order.
/// @param batches one or more, with the same fields; each field has one dtype, device and shape (apart from
///         the number of samples)
/// @return a batch whose size is the sum of the sizes
/// @throws TensorError if there is no batch, or if a field is missing in one of the batches or differs in
///         shape, dtype or device; the message names the field, the samples and both tensors
Batch collate(std::span<const Batch> batches);

}  // namespace diffusers

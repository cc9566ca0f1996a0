#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <diffusers/core/tensor.h>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// Samples of a dataset, before any encoding. Row i of every field belongs to sample i. All fields except
/// `images` are optional: a tensor may be undefined and `captions` may be empty.
struct Batch {
  /// `[B, C, H, W]` float32 in [-1, 1].
  Tensor images = {};
  /// `[B]` int64, each in [0, `Dataset::class_count()`).
  Tensor class_labels = {};
  /// B texts in UTF-8, or empty.
  std::vector<std::string> captions = {};
  /// `[B, C, H, W]` float32 in [0, 1]: the input of a ControlNet or T2I-adapter.
  Tensor conditioning_images = {};
  /// `[B, C, H, W]` float32 in [-1, 1]: the images before editing (InstructPix2Pix). `images` then holds the
  /// edited images.
  Tensor original_images = {};
  /// `[B, 1, H, W]` float32, 1 where an image is to be inpainted and 0 elsewhere.
  Tensor masks = {};
  /// `[B, 2]` int64, (height, width) of each image before it was resized: SDXL's micro-conditioning. In host
  /// memory.
  Tensor original_sizes = {};
  /// `[B, 2]` int64, (top, left) of the crop in the resized image: SDXL's micro-conditioning. In host memory.
  Tensor crop_top_lefts = {};
  /// `[B]` int64, position of each sample in the dataset. Caches use it as their key. In host memory.
  Tensor indices = {};
  /// `[B]` bool, true for the class images of DreamBooth's prior preservation.
  Tensor is_prior = {};

  /// Returns the number of samples, which is the number of rows of the first field that is set; 0 if none is
  /// set.
  int64_t size() const;

  /// Copies the fields that a model reads to a device. Copies from page-locked memory do not block the host.
  /// `original_sizes`, `crop_top_lefts` and `indices` stay in host memory, because the host reads them. A
  /// field that already is on the device is shared, not copied.
  /// @param device destination of images, class_labels, conditioning_images, original_images, masks and
  ///         is_prior
  /// @param dtype floating dtype of the image fields (images, conditioning_images, original_images, masks);
  ///         an image field that is not floating keeps its dtype. nullopt keeps every dtype.
  /// @return a batch of the same size
  Batch to(at::Device device, std::optional<at::ScalarType> dtype = std::nullopt) const;

  /// Copies the fields that `to` copies into page-locked memory. A CUDA device reads them from there without
  /// blocking the host. Tensors that are on a device are shared.
  /// @return a batch of the same size
  /// @throws Error if there is no CUDA device
  Batch pin_memory() const;

  /// Returns the samples [begin, end). The tensors are views of this batch's tensors.
  /// @param begin first sample, in [0, size()]
  /// @param end one past the last sample, in [begin, size()]
  /// @return a batch of `end - begin` samples
  /// @throws TensorError if the range is not within the batch
  Batch slice(int64_t begin, int64_t end) const;
};

/// Joins batches into one, in their order.
/// @param batches one or more, with the same fields; each field has one dtype, device and shape (apart from
///         the number of samples)
/// @return a batch whose size is the sum of the sizes
/// @throws TensorError if `batches` is empty, or if a field is missing in one of them or differs in shape,
///         dtype or device; the message names the field, the samples and both tensors
Batch collate(std::span<const Batch> batches);

}  // namespace diffusers

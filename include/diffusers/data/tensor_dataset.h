#pragma once

#include <cstdint>
#include <span>

#include <diffusers/data/dataset.h>

namespace diffusers {

/// A dataset of tensors in memory (Python: `torch.utils.data.TensorDataset`).
/// @code
/// trainer.train(TensorDataset(images, labels));
/// trainer.train(TensorDataset({.images = images, .captions = texts}));
/// @endcode
/// The tensors may be on any device. If they are on the device of the model, reading a batch copies only the
/// indices from the host.
class TensorDataset : public Dataset {
 public:
  /// Makes a dataset of images and labels.
  /// @param images `[N, ...]` floating; images are `[N, C, H, W]` in [-1, 1]
  /// @param class_labels `[N]` of any integer dtype, 0 or more; undefined if there are no labels
  /// @throws TensorError naming the tensor that does not fit
  explicit TensorDataset(Tensor images, Tensor class_labels = {});
  /// Makes a dataset of the rows of a batch.
  /// @param samples all samples as one batch, with N rows in every field that is set
  /// @throws TensorError naming the field that does not fit
  explicit TensorDataset(Batch samples);

  /// Returns the number of samples.
  int64_t size() const override { return samples_.size(); }
  /// Returns the largest label plus 1; 0 without labels.
  int64_t class_count() const override { return class_count_; }
  /// Copies the rows of every field.
  /// @param indices positions, each in [0, size())
  /// @param augmentation_seed has no effect
  /// @return a batch of `indices.size()` samples; class_labels are int64; if the samples have no `indices`,
  ///         the batch holds their positions
  /// @throws TensorError if an index is out of range
  Batch get_batch(std::span<const int64_t> indices, uint64_t augmentation_seed = 0) const override;

  /// Returns all samples.
  const Batch& samples() const { return samples_; }

 private:
  Batch samples_;
  int64_t class_count_ = 0;
};

}  // namespace diffusers

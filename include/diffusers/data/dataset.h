#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/data/batch.h>

namespace diffusers {

/// A dataset with random access. All functions must be thread-safe. Derive from `MapDataset` to read one
/// sample at a time. Use `TensorDataset` for tensors in memory and `IterableDataset` for data that can only
/// be read in order.
class Dataset {
 public:
  virtual ~Dataset() = default;
  /// Returns the number of samples.
  virtual int64_t size() const = 0;
  /// Returns the number of classes. Labels are in [0, class_count()). 0 (the default) means that there are no
  /// labels or that their number is not known.
  virtual int64_t class_count() const { return 0; }
  /// Returns the bucket of each sample, for a dataset whose samples have several shapes. The samples of a
  /// bucket have one shape, and the loader fills each batch from one bucket.
  /// @return one number for each sample; empty (the default) if all samples have one shape
  virtual std::vector<int64_t> buckets() const { return {}; }
  /// Reads samples, in the order of `indices`.
  /// @param indices positions, each in [0, size())
  /// @param augmentation_seed seed of random augmentation. The augmentation of a sample depends only on this
  ///         seed and its position. The loader passes another seed in each epoch. 0 (the default) is passed
  ///         outside of training, such as in validation.
  /// @return a batch of `indices.size()` samples
  virtual Batch get_batch(std::span<const int64_t> indices, uint64_t augmentation_seed = 0) const = 0;

 protected:
  // Copying and assigning through the base would slice.
  Dataset() = default;
  Dataset(const Dataset&) = default;
  Dataset(Dataset&&) noexcept = default;
  Dataset& operator=(const Dataset&) = default;
  Dataset& operator=(Dataset&&) noexcept = default;
};

/// A dataset that reads one sample at a time, as a class with `__getitem__` does in Python.
/// @code
/// class Squares : public MapDataset {
///  public:
///   int64_t size() const override { return 100; }
///   Batch get(int64_t index) const override {
///     return {.images = torch::full({1, 8, 8}, index / 50.0 - 1), .captions = {std::to_string(index)}};
///   }
/// };
/// @endcode
class MapDataset : public Dataset {
 public:
  /// Reads one sample. Must be thread-safe.
  /// @param index position, in [0, size())
  /// @return one sample: images `[C, H, W]`, class_labels `[]`, one caption, original_sizes `[2]` and so on;
  ///         or a batch of one sample, with a first dimension of 1
  virtual Batch get(int64_t index) const = 0;
  /// Reads one sample with random augmentation. The default returns `get(index)`. The second argument is the
  /// `augmentation_seed` of `Dataset::get_batch`.
  /// @param index position, in [0, size())
  /// @return one sample, see `get`
  virtual Batch get_augmented(int64_t index, uint64_t /*augmentation_seed*/) const { return get(index); }
  /// Reads the samples one after another and joins them.
  /// @param indices positions, each in [0, size())
  /// @param augmentation_seed see `Dataset::get_batch`
  /// @return a batch of `indices.size()` samples; `indices` is set
  /// @throws TensorError if an index is out of range, if the dimensions of a sample differ from those of
  ///         `get`, or if the samples differ in shape or dtype; the message names the field and both samples
  Batch get_batch(std::span<const int64_t> indices, uint64_t augmentation_seed = 0) const override;
};

}  // namespace diffusers

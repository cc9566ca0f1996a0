#pragma once

#include <cstdint>
#include <span>

#include <diffusers/core/tensor.h>

namespace diffusers {

/// What a batch of a data set holds, before any encoding.
struct Batch {
  Tensor images = {};        ///< `[B, C, H, W]` float32 in [-1, 1]
  Tensor class_labels = {};  ///< `[B]` int64; undefined where the data set has none
};

/// A data set that can be read at any position, from several threads at once.
class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual int64_t size() const = 0;
  /// Number of classes: labels are 0 to class_count() - 1. 0: there are no labels, or the number is not
  /// known.
  virtual int64_t class_count() const { return 0; }
  /// Reads the examples at `indices`, each in [0, size()), in that order.
  /// @param augmentation_seed what random augmentation of this epoch draws from, together with the index; the
  /// same seed
  ///        and index give the same example whoever reads it
  virtual Batch get_batch(std::span<const int64_t> indices, uint64_t augmentation_seed = 0) const = 0;

 protected:
  // Copying and assigning through the base would slice.
  Dataset() = default;
  Dataset(const Dataset&) = default;
  Dataset(Dataset&&) noexcept = default;
  Dataset& operator=(const Dataset&) = default;
  Dataset& operator=(Dataset&&) noexcept = default;
};

}  // namespace diffusers

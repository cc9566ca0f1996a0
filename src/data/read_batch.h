#pragma once

#include <cstdint>
#include <span>

#include <diffusers/data/dataset.h>

namespace diffusers {
inline namespace internal {

/// Checks that every field that is set has one row for each sample.
/// @param count number of requested samples
/// @throws TensorError naming the field and both counts
void require_sample_count(const Batch& batch, int64_t count);

/// Reads samples as the loader and the validation do: checks the rows of every field, and sets `indices` to
/// the positions in this dataset. A batch whose `is_prior` has two rows for each sample has the class images
/// of DreamBooth in its second half. Their indices are those of their samples plus `dataset.size()`.
/// @param indices positions of the samples, each in [0, dataset.size())
/// @throws TensorError if the dataset returns a wrong number of samples
Batch read_batch(const Dataset& dataset, std::span<const int64_t> indices, uint64_t augmentation_seed = 0);

}  // namespace internal
}  // namespace diffusers

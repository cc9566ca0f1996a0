#pragma once

// The order of an epoch and its batches, for a dataset with random access.

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace diffusers {
inline namespace internal {

/// The samples of an epoch.
struct EpochSamples {
  int64_t size = 0;                       ///< number of samples in the dataset
  std::span<const int64_t> buckets = {};  ///< bucket of each sample; empty: one bucket
  int64_t batch_size = 1;                 ///< samples in a batch of all processes together
  bool drop_last = false;                 ///< drop the last batch of a bucket if it is smaller
};

/// The batches of one epoch.
struct EpochPlan {
  std::vector<int64_t> order;       ///< positions of the samples, batch after batch
  std::vector<std::size_t> starts;  ///< start of each batch in `order`, and the end of the last one

  int64_t batches() const { return static_cast<int64_t>(starts.size()) - 1; }
  /// Returns the positions of the samples of a batch.
  std::span<const int64_t> batch(int64_t number) const {
    const auto first = starts[static_cast<std::size_t>(number)];
    return std::span(order).subspan(first, starts[static_cast<std::size_t>(number) + 1] - first);
  }
};

/// Returns the number of batches of `plan_epoch`.
int64_t planned_batches(const EpochSamples& samples);

/// Plans an epoch. Samples are taken in random order, or in the order of the dataset. Each sample joins the
/// open batch of its bucket. Batches are ordered by the position of their last sample. Smaller batches come
/// at the end, ordered by bucket.
/// @param order_seed seed of the random order; nullopt keeps the order of the dataset
EpochPlan plan_epoch(const EpochSamples& samples, std::optional<uint64_t> order_seed);

}  // namespace internal
}  // namespace diffusers

#pragma once

// The order of an epoch and its batches, for a dataset with random access.

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace diffusers {
inline namespace internal {

/// Which samples an epoch consists of.
struct EpochSamples {
  int64_t size = 0;                       ///< number of samples in the dataset
  std::span<const int64_t> buckets = {};  ///< bucket of each sample; empty: one bucket
  int64_t batch_size = 1;                 ///< of all processes together
  bool drop_last = false;                 ///< leave out the last batch of a bucket if it is smaller
};

/// The batches of one epoch.
struct EpochPlan {
  std::vector<int64_t> order;       ///< positions of the samples, batch after batch
  std::vector<std::size_t> starts;  ///< where each batch begins in `order`, and the end of the last one

  int64_t batches() const { return static_cast<int64_t>(starts.size()) - 1; }
  /// Returns the positions of the samples of a batch.
  std::span<const int64_t> batch(int64_t number) const {
    const auto first = starts[static_cast<std::size_t>(number)];
    return std::span(order).subspan(first, starts[static_cast<std::size_t>(number) + 1] - first);
  }
};

/// Returns the number of batches that `plan_epoch` gives.
int64_t planned_batches(const EpochSamples& samples);

/// Plans an epoch. Samples come in a random order, or in that of the dataset; each goes to the batch of its
/// bucket that is being filled, and a batch stands where its last sample was. Smaller batches stand at the
/// end, by bucket.
/// @param order_seed seed of the random order; nullopt keeps the order of the dataset
EpochPlan plan_epoch(const EpochSamples& samples, std::optional<uint64_t> order_seed);

}  // namespace internal
}  // namespace diffusers

#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include <diffusers/data/batch.h>

namespace diffusers {

/// One pass over an `IterableDataset`. It is used by one thread at a time.
class SampleStream {
 public:
  virtual ~SampleStream() = default;
  /// Reads the next sample.
  /// @return one sample in the form of `MapDataset::get`; nullopt at the end of the data, and at each later
  ///         call
  virtual std::optional<Batch> next() = 0;
  /// Skips samples. The default reads and drops them. A stream that can seek overrides this function, so that
  /// resuming does not read the data again.
  /// @param count number of samples, 0 or more
  /// @return the number of samples that were skipped; below `count` only at the end of the data
  virtual int64_t skip(int64_t count);

 protected:
  SampleStream() = default;
  SampleStream(const SampleStream&) = default;
  SampleStream(SampleStream&&) noexcept = default;
  SampleStream& operator=(const SampleStream&) = default;
  SampleStream& operator=(SampleStream&&) noexcept = default;
};

/// A dataset that can only be read in order, such as streamed shards (Python:
/// `torch.utils.data.IterableDataset`). A `DataLoader` reads it. The loader's saved position is the number of
/// samples that were read in the epoch.
/// @code
/// class Shards : public IterableDataset {
///  public:
///   std::unique_ptr<SampleStream> open(uint64_t epoch_seed) const override {
///     return std::make_unique<ShardStream>(shuffled(files_, epoch_seed));
///   }
/// };
/// DataLoader loader(Shards(files), {.batch_size = 64, .num_workers = 1});
/// @endcode
class IterableDataset {
 public:
  virtual ~IterableDataset() = default;
  /// Starts a pass over the data.
  /// @param epoch_seed seed of the order of the shards and of random augmentation. It differs between epochs
  ///         and is the same in all processes. The same seed must give the same samples in the same order.
  /// @return the stream of the epoch, never null
  virtual std::unique_ptr<SampleStream> open(uint64_t epoch_seed) const = 0;
  /// Returns the number of samples of an epoch; nullopt (the default) if it is not known.
  virtual std::optional<int64_t> size() const { return std::nullopt; }
  /// Returns the number of classes. 0 (the default) means that there are no labels or that their number is
  /// not known.
  virtual int64_t class_count() const { return 0; }

 protected:
  IterableDataset() = default;
  IterableDataset(const IterableDataset&) = default;
  IterableDataset(IterableDataset&&) noexcept = default;
  IterableDataset& operator=(const IterableDataset&) = default;
  IterableDataset& operator=(IterableDataset&&) noexcept = default;
};

}  // namespace diffusers

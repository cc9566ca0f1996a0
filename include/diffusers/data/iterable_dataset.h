#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

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

/// One of the readers that share a pass over a dataset.
struct StreamPart {
  int64_t rank = 0;         ///< Process, in [0, world_size).
  int64_t world_size = 1;   ///< Number of processes.
  int64_t worker = 0;       ///< Thread of the process, in [0, num_workers).
  int64_t num_workers = 1;  ///< Number of threads of each process that read.

  /// Returns the number of samples of this reader in an epoch whose number of samples is known. All processes
  /// get the same number; the rest is dropped.
  /// @param samples samples of the epoch, of all processes together
  int64_t share_of(int64_t samples) const {
    const int64_t of_process = samples / world_size;
    return of_process * (worker + 1) / num_workers - of_process * worker / num_workers;
  }
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
  /// Returns the largest number of readers that can share a pass. With the default, 1, one thread of each
  /// process reads all samples, and the process drops those of the others. With more, each thread of each
  /// process reads another part, and the order of the samples depends on the number of processes and
  /// threads.
  virtual int64_t max_parts() const { return 1; }
  /// Starts the pass of one reader. Together the readers of a pass read every sample once. If `size()` is
  /// known, the reader gives `part.share_of(size)` samples.
  /// The second argument is the reader.
  /// @param epoch_seed see `open`
  /// @return the stream of the reader, never null; the default returns `open(epoch_seed)`
  virtual std::unique_ptr<SampleStream> open_part(uint64_t epoch_seed, const StreamPart& /*part*/) const {
    return open(epoch_seed);
  }
  /// Returns a text with everything that determines the order of the samples besides the seed. Checkpoints
  /// save it, and a training is only resumed with the same text.
  /// @return the text; empty (the default) is not compared
  virtual std::string order_key() const { return {}; }
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

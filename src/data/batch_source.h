#pragma once

// The batches of one epoch of a loader, read from a dataset with random access or from a stream.

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include <diffusers/data/dataset.h>
#include <diffusers/data/iterable_dataset.h>
#include <diffusers/data/loader.h>

#include "data/epoch_plan.h"

namespace diffusers {
inline namespace internal {

/// A batch and its rows in the global batch.
struct LoadedBatch {
  Batch batch = {};
  BatchRows rows = {};
  bool is_absent = false;  ///< there is no batch of this number, but there may be one of a later number
};

/// The batches of one epoch that one process reads.
class BatchSource {
 public:
  virtual ~BatchSource() = default;
  /// Reads a batch.
  /// @param number number of the batch in the epoch, from 0
  /// @return nullopt if the epoch ends before this batch
  virtual std::optional<LoadedBatch> read(int64_t number) = 0;
};

/// Batches of a dataset with random access. `read` may be called from several threads at once.
class PlannedBatches : public BatchSource {
 public:
  PlannedBatches(std::shared_ptr<const Dataset> dataset, EpochPlan plan, uint64_t augmentation_seed,
                 const DataLoaderOptions& options);
  std::optional<LoadedBatch> read(int64_t number) override;

 private:
  std::shared_ptr<const Dataset> dataset_;
  EpochPlan plan_;
  uint64_t augmentation_seed_;
  DataLoaderOptions options_;
};

/// Batches of a stream. They must be read in order, but the first one may have any number.
class StreamedBatches : public BatchSource {
 public:
  StreamedBatches(std::shared_ptr<const IterableDataset> dataset, uint64_t epoch_seed,
                  const DataLoaderOptions& options);
  std::optional<LoadedBatch> read(int64_t number) override;

 private:
  void go_to(int64_t number);

  std::shared_ptr<const IterableDataset> dataset_;
  uint64_t epoch_seed_;
  DataLoaderOptions options_;
  std::unique_ptr<SampleStream> stream_;  // opened by the first read
  int64_t next_ = 0;
  bool is_at_end_ = false;
};

/// Batches of a stream of which each of several threads reads one part. Batch n comes from the thread n
/// modulo the number of threads. After the end of a part its batches are absent. `read` may be called from
/// several threads at once, but each number once and the numbers of a part in order.
class PartedBatches : public BatchSource {
 public:
  /// @param first number of the first batch that is read
  PartedBatches(std::shared_ptr<const IterableDataset> dataset, uint64_t epoch_seed,
                const DataLoaderOptions& options, int64_t first);
  std::optional<LoadedBatch> read(int64_t number) override;

 private:
  struct Part {
    std::unique_ptr<SampleStream> stream;  // opened by the first read
    int64_t next = 0;                      // number of the next batch among those of the part
    bool is_at_end = false;
  };

  LoadedBatch read_part(int64_t worker, int64_t number);

  std::shared_ptr<const IterableDataset> dataset_;
  uint64_t epoch_seed_;
  DataLoaderOptions options_;
  std::vector<Part> parts_;
  std::mutex mutex_;  // guards `next` of the parts; each part is used by the thread whose turn it is
  std::condition_variable turn_;
};

/// Returns the number of threads that read a stream; a loader without threads of its own reads in the
/// caller's.
inline int64_t reading_threads(const DataLoaderOptions& options) {
  return options.num_workers > 0 ? options.num_workers : 1;
}

/// Returns the part of a stream that a thread reads.
inline StreamPart part_of(const DataLoaderOptions& options, int64_t worker) {
  return {.rank = options.rank,
          .world_size = options.world_size,
          .worker = worker,
          .num_workers = reading_threads(options)};
}

}  // namespace internal
}  // namespace diffusers

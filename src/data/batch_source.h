#pragma once

// The batches of one epoch of a loader, read from a dataset with random access or from a stream.

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>

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

}  // namespace internal
}  // namespace diffusers

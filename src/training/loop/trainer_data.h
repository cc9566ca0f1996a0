#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <diffusers/data/dataset.h>
#include <diffusers/data/iterable_dataset.h>
#include <diffusers/data/loader.h>
#include <diffusers/training/process_group.h>
#include <diffusers/training/task.h>
#include <diffusers/training/training_config.h>

namespace diffusers {
inline namespace internal {

/// The data of a training: a dataset with random access, or one that is read in order. Refers to the dataset.
class TrainerData {
 public:
  explicit TrainerData(const Dataset& dataset) : dataset_(&dataset) {}
  explicit TrainerData(const IterableDataset& dataset) : iterable_(&dataset) {}

  bool is_iterable() const { return iterable_ != nullptr; }
  /// Returns the number of samples; nullopt if an IterableDataset does not know it.
  std::optional<int64_t> size() const;
  /// Lets the task check the dataset.
  /// @throws ConfigError for an empty dataset, and what the task throws
  void check(Task& task) const;
  /// Returns the optimizer steps of a training.
  /// @throws ConfigError if neither `max_train_steps` nor the size says it, and for more threads than the
  ///         dataset can be read by
  int64_t total_steps(const TrainingConfig& config) const;
  /// Opens a loader, which shuffles a dataset with random access.
  DataLoader loader(DataLoaderOptions options) const;
  /// Returns `IterableDataset::order_key`; empty for a dataset with random access.
  std::string order_key() const;
  /// Returns the number of threads that each read a part of an IterableDataset, which determines the order; 0
  /// if the order does not depend on it.
  int64_t sharing_threads(const TrainingConfig& config) const;
  /// Returns the size in words, for the report.
  std::string description() const;
  /// Divides each batch of the loaders among processes.
  void share_among(const ProcessGroup& group) {
    rank_ = group.rank();
    world_size_ = group.world_size();
  }
  /// Names a kind of dataset, for messages.
  static const char* kind(bool is_iterable) {
    return is_iterable ? "an IterableDataset" : "a dataset with random access";
  }

 private:
  const Dataset* dataset_ = nullptr;  // one of the two is set
  const IterableDataset* iterable_ = nullptr;
  int64_t rank_ = 0;
  int64_t world_size_ = 1;
};

}  // namespace internal
}  // namespace diffusers

#include "training/loop/trainer_data.h"

#include <algorithm>

#include "core/require.h"

namespace diffusers {
inline namespace internal {

std::optional<int64_t> TrainerData::size() const {
  return is_iterable() ? iterable_->size() : std::optional<int64_t>(dataset_->size());
}

void TrainerData::check(Task& task) const {
  require<ConfigError>(size().value_or(1) > 0, "the dataset is empty");
  require<ConfigError>(size().value_or(world_size_) >= world_size_,
                       "the dataset has {} samples for {} processes; expected one for each at least",
                       size().value_or(0), world_size_);
  if (is_iterable()) {
    task.check_iterable_dataset(*iterable_);
  } else {
    task.check_dataset(*dataset_);
  }
}

int64_t TrainerData::total_steps(const TrainingConfig& config) const {
  const int64_t most_threads = is_iterable() ? iterable_->max_parts() : 0;
  require<ConfigError>(most_threads != 1 || config.dataloader_num_workers <= 1,
                       "dataloader_num_workers is {}, but an IterableDataset is read by one thread; expected "
                       "0 or 1",
                       config.dataloader_num_workers);
  require<ConfigError>(
      !is_iterable() || config.dataloader_num_workers <= most_threads,
      "dataloader_num_workers is {}, but the IterableDataset has {} parts, such as shards; expected "
      "at most one thread for each",
      config.dataloader_num_workers, most_threads);
  if (config.max_train_steps) return *config.max_train_steps;
  require<ConfigError>(size().has_value(),
                       "max_train_steps is not set, and the IterableDataset has no size(), so the number of "
                       "steps of num_epochs is not known; set max_train_steps");
  // Threads that share the data end with a smaller batch each.
  const int64_t batches = loader({.batch_size = config.train_batch_size,
                                  .num_workers = is_iterable() ? config.dataloader_num_workers : 0})
                              .size();
  const int64_t steps_per_epoch =
      (batches + config.gradient_accumulation_steps - 1) / config.gradient_accumulation_steps;
  return config.num_epochs * steps_per_epoch;
}

DataLoader TrainerData::loader(DataLoaderOptions options) const {
  options.rank = rank_;
  options.world_size = world_size_;
  if (is_iterable()) {
    // A last batch that is smaller could not be divided: its size is known only when it was read.
    options.drop_last = world_size_ > 1;
    return DataLoader(*iterable_, options);
  }
  options.shuffle = true;
  return DataLoader(*dataset_, options);
}

std::string TrainerData::order_key() const { return is_iterable() ? iterable_->order_key() : ""; }

int64_t TrainerData::sharing_threads(const TrainingConfig& config) const {
  return is_iterable() && iterable_->max_parts() > 1 ? std::max<int64_t>(1, config.dataloader_num_workers)
                                                     : 0;
}

std::string TrainerData::description() const {
  const std::optional<int64_t> count = size();
  return count ? fmt::format("{} examples", *count) : "IterableDataset of unknown size";
}

}  // namespace internal
}  // namespace diffusers

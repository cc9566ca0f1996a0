#include "data/batch_source.h"

#include <utility>
#include <vector>

#include "core/require.h"
#include "data/read_batch.h"
#include "data/single_sample.h"

namespace diffusers {
inline namespace internal {

PlannedBatches::PlannedBatches(std::shared_ptr<const Dataset> dataset, EpochPlan plan,
                               uint64_t augmentation_seed, const DataLoaderOptions& options)
    : dataset_(std::move(dataset)),
      plan_(std::move(plan)),
      augmentation_seed_(augmentation_seed),
      options_(options) {}

std::optional<LoadedBatch> PlannedBatches::read(int64_t number) {
  if (number >= plan_.batches()) return std::nullopt;
  const std::span<const int64_t> all = plan_.batch(number);
  const auto total = static_cast<int64_t>(all.size());
  LoadedBatch loaded;
  loaded.rows = {.begin = total * options_.rank / options_.world_size,
                 .end = total * (options_.rank + 1) / options_.world_size,
                 .total = total};
  const auto count = static_cast<std::size_t>(loaded.rows.end - loaded.rows.begin);
  if (count == 0) return loaded;
  loaded.batch = read_batch(*dataset_, all.subspan(static_cast<std::size_t>(loaded.rows.begin), count),
                            augmentation_seed_);
  if (options_.pin_memory) loaded.batch = loaded.batch.pin_memory();
  return loaded;
}

StreamedBatches::StreamedBatches(std::shared_ptr<const IterableDataset> dataset, uint64_t epoch_seed,
                                 const DataLoaderOptions& options)
    : dataset_(std::move(dataset)), epoch_seed_(epoch_seed), options_(options) {}

/// Opens the stream and skips the batches before `number`.
void StreamedBatches::go_to(int64_t number) {
  if (!stream_) stream_ = dataset_->open(epoch_seed_);
  require(stream_ != nullptr, "IterableDataset::open gave no stream");
  require(number >= next_, "batch {} of a stream was asked for after batch {}", number, next_);
  const int64_t global_size = options_.batch_size * options_.world_size;
  const int64_t count = (number - next_) * global_size;
  const int64_t passed = count > 0 ? stream_->skip(count) : 0;
  next_ = number;
  if (passed == count) return;
  is_at_end_ = true;
  // The last batch of the epoch may have been smaller.
  require(count - passed < global_size,
          "the loader goes on after sample {}, but the stream ended after sample {}", count, passed);
}

std::optional<LoadedBatch> StreamedBatches::read(int64_t number) {
  if (!is_at_end_) go_to(number);
  if (is_at_end_) return std::nullopt;
  const int64_t size = options_.batch_size;
  const int64_t before = size * options_.rank;
  const int64_t after = size * (options_.world_size - 1) - before;
  std::vector<Batch> samples;
  is_at_end_ = before > 0 && stream_->skip(before) < before;
  while (!is_at_end_ && static_cast<int64_t>(samples.size()) < size) {
    std::optional<Batch> sample = stream_->next();
    is_at_end_ = !sample;
    if (sample)
      samples.push_back(as_batch_of_one(
          std::move(*sample),
          {.function = "next",
           .index = number * size * options_.world_size + before + static_cast<int64_t>(samples.size())}));
  }
  if (!is_at_end_ && after > 0) is_at_end_ = stream_->skip(after) < after;
  next_ = number + 1;
  // With several processes every batch is complete.
  if (samples.empty() || (is_at_end_ && options_.drop_last)) return std::nullopt;
  LoadedBatch loaded{.batch = collate(samples)};
  loaded.rows = {
      .begin = before, .end = before + loaded.batch.size(), .total = after + before + loaded.batch.size()};
  if (options_.pin_memory) loaded.batch = loaded.batch.pin_memory();
  return loaded;
}

}  // namespace internal
}  // namespace diffusers

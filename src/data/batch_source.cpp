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

PartedBatches::PartedBatches(std::shared_ptr<const IterableDataset> dataset, uint64_t epoch_seed,
                             const DataLoaderOptions& options, int64_t first)
    : dataset_(std::move(dataset)),
      epoch_seed_(epoch_seed),
      options_(options),
      parts_(static_cast<std::size_t>(reading_threads(options))) {
  const int64_t count = reading_threads(options);
  for (int64_t worker = 0; worker < count; ++worker)
    parts_[static_cast<std::size_t>(worker)].next = (first - worker + count - 1) / count;
}

std::optional<LoadedBatch> PartedBatches::read(int64_t number) {
  const auto count = static_cast<int64_t>(parts_.size());
  Part& part = parts_[static_cast<std::size_t>(number % count)];
  {
    std::unique_lock lock(mutex_);
    turn_.wait(lock, [&] { return part.next >= number / count; });
  }
  const auto end_turn = [&] {
    const std::lock_guard lock(mutex_);
    ++part.next;
    turn_.notify_all();
  };
  try {
    LoadedBatch loaded = read_part(number % count, number / count);
    end_turn();
    return loaded;
  } catch (...) {
    // The pass ends here; threads that wait for this part must not wait forever.
    part.is_at_end = true;
    end_turn();
    throw;
  }
}

/// @param number number of the batch among those of the part
LoadedBatch PartedBatches::read_part(int64_t worker, int64_t number) {
  constexpr auto kAbsent = [] { return LoadedBatch{.is_absent = true}; };
  Part& part = parts_[static_cast<std::size_t>(worker)];
  if (part.is_at_end) return kAbsent();
  const int64_t size = options_.batch_size;
  if (!part.stream) {
    part.stream = dataset_->open_part(epoch_seed_, part_of(options_, worker));
    require(part.stream != nullptr, "IterableDataset::open_part gave no stream");
    const int64_t before = number * size;
    part.is_at_end = before > 0 && part.stream->skip(before) < before;
  }
  std::vector<Batch> samples;
  while (!part.is_at_end && static_cast<int64_t>(samples.size()) < size) {
    std::optional<Batch> sample = part.stream->next();
    part.is_at_end = !sample;
    if (sample)
      samples.push_back(as_batch_of_one(
          std::move(*sample),
          {.function = "next", .index = number * size + static_cast<int64_t>(samples.size())}));
  }
  if (samples.empty() || (part.is_at_end && options_.drop_last)) return kAbsent();
  LoadedBatch loaded{.batch = collate(samples)};
  // With several processes every batch is complete.
  const int64_t before = size * options_.rank;
  loaded.rows = {.begin = before,
                 .end = before + loaded.batch.size(),
                 .total = size * (options_.world_size - 1) + loaded.batch.size()};
  if (options_.pin_memory) loaded.batch = loaded.batch.pin_memory();
  return loaded;
}

}  // namespace internal
}  // namespace diffusers

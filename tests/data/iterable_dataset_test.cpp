#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/data/iterable_dataset.h>
#include <diffusers/data/loader.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_throws_with;

/// A stream of consecutive numbers that starts at the epoch's seed. Samples hold them in `class_labels`.
class Numbers : public IterableDataset {
 public:
  explicit Numbers(int64_t size, bool has_size = false) : size_(size), has_size_(has_size) {}
  std::unique_ptr<SampleStream> open(uint64_t epoch_seed) const override {
    return std::make_unique<Stream>(*this, static_cast<int64_t>(epoch_seed % 1000) * 1000);
  }
  std::optional<int64_t> size() const override { return has_size_ ? std::optional(size_) : std::nullopt; }

  std::atomic<int64_t> failing{-1};

 private:
  class Stream : public SampleStream {
   public:
    Stream(const Numbers& numbers, int64_t first) : numbers_(numbers), first_(first) {}
    std::optional<Batch> next() override {
      if (position_ >= numbers_.size_) return std::nullopt;
      if (position_ == numbers_.failing)
        throw FileError("sample " + std::to_string(position_) + " is broken");
      Batch sample{.images = at::zeros({1, 2, 2}),
                   .class_labels = at::scalar_tensor(first_ + position_, at::kLong)};
      ++position_;
      return sample;
    }

   private:
    const Numbers& numbers_;
    int64_t first_;
    int64_t position_ = 0;
  };

  int64_t size_;
  bool has_size_;
};

/// A stream with random access.
class SeekingNumbers : public IterableDataset {
 public:
  std::unique_ptr<SampleStream> open(uint64_t) const override { return std::make_unique<Stream>(); }

 private:
  class Stream : public SampleStream {
   public:
    std::optional<Batch> next() override {
      if (position_ >= 1'000'000'000) return std::nullopt;
      return Batch{.images = at::zeros({1, 1, 1, 1}), .class_labels = at::full({1}, position_++, at::kLong)};
    }
    int64_t skip(int64_t count) override {
      const int64_t passed = std::min<int64_t>(count, 1'000'000'000 - position_);
      position_ += passed;
      return passed;
    }

   private:
    int64_t position_ = 0;
  };
};

std::vector<int64_t> numbers_of(const Batch& batch) {
  const auto* data = batch.class_labels.const_data_ptr<int64_t>();
  return {data, data + batch.class_labels.numel()};
}

/// Returns the numbers of each batch of an epoch minus `first`.
std::vector<std::vector<int64_t>> epoch_of(DataLoader& loader, int64_t first) {
  std::vector<std::vector<int64_t>> batches;
  for (const Batch& batch : loader) {
    batches.push_back(numbers_of(batch));
    for (int64_t& number : batches.back()) number -= first;
  }
  return batches;
}

TEST(IterableDataset, IsReadInItsOrderEpochAfterEpoch) {
  const Numbers data(7);
  for (const int64_t workers : {0, 1}) {
    DataLoader loader(data, {.batch_size = 3, .num_workers = workers});
    std::vector<int64_t> firsts;
    for (int64_t epoch = 0; epoch < 3; ++epoch) {
      DataLoader other(data, {.batch_size = 3});
      other.set_epoch(epoch);
      firsts.push_back(numbers_of(*other.next()).front());
      EXPECT_EQ(loader.epoch(), epoch);
      EXPECT_EQ(epoch_of(loader, firsts.back()),
                (std::vector<std::vector<int64_t>>{{0, 1, 2}, {3, 4, 5}, {6}}));
    }
    EXPECT_NE(firsts[0], firsts[1]);
    DataLoader dropping(data, {.batch_size = 3, .drop_last = true, .num_workers = workers});
    EXPECT_EQ(epoch_of(dropping, firsts.front()), (std::vector<std::vector<int64_t>>{{0, 1, 2}, {3, 4, 5}}));
  }
  DataLoader owning(SeekingNumbers(), {.batch_size = 2});
  EXPECT_EQ(owning.next()->images.size(0), 2);
  EXPECT_FALSE(owning.next()->indices.defined());
}

TEST(IterableDataset, GoesOnFromEverySavedPosition) {
  const Numbers data(11);
  for (const int64_t workers : {0, 1}) {
    const DataLoaderOptions options{.batch_size = 4, .num_workers = workers};
    DataLoader whole(data, options);
    std::vector<std::vector<int64_t>> expected;
    std::vector<DataLoaderPosition> positions{whole.position()};
    for (int epoch = 0; epoch < 2; ++epoch) {
      while (auto batch = whole.next()) {
        expected.push_back(numbers_of(*batch));
        positions.push_back(whole.position());
      }
    }
    ASSERT_EQ(expected.size(), 6U);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      DataLoader resumed(data, options);
      resumed.restore(positions[i]);
      auto batch = resumed.next();
      if (!batch) batch = resumed.next();
      EXPECT_EQ(numbers_of(*batch), expected[i]) << i;
    }
  }
  DataLoader far(SeekingNumbers(), {.batch_size = 4});
  far.restore({0, 400'000'000});
  EXPECT_EQ(numbers_of(*far.next()).front(), 400'000'000);

  DataLoader outside(data, {.batch_size = 4});
  outside.restore({0, 16});
  expect_throws_with<Error>([&] { outside.next(); },
                            "goes on after sample 16, but the stream ended after sample 11");
}

TEST(IterableDataset, ErrorsReachTheConsumerAndTheBatchIsTriedAgain) {
  for (const int64_t workers : {0, 1}) {
    Numbers data(10);
    data.failing = 4;
    DataLoader loader(data, {.batch_size = 3, .num_workers = workers});
    const int64_t first = numbers_of(*loader.next()).front();
    for (int i = 0; i < 2; ++i) expect_throws_with<FileError>([&] { loader.next(); }, "sample 4 is broken");
    data.failing = -1;
    EXPECT_EQ(epoch_of(loader, first), (std::vector<std::vector<int64_t>>{{3, 4, 5}, {6, 7, 8}, {9}}));
  }
}

TEST(IterableDataset, ProcessesHaveTheirRowsOfEveryGlobalBatch) {
  const Numbers data(14);
  std::vector<int64_t> joined;
  int64_t first = -1;
  for (int64_t rank = 0; rank < 3; ++rank) {
    DataLoader loader(data, {.batch_size = 2, .drop_last = true, .rank = rank, .world_size = 3});
    if (first < 0) {
      DataLoader whole(data, {.batch_size = 1});
      first = numbers_of(*whole.next()).front();
    }
    EXPECT_EQ(epoch_of(loader, first),
              (std::vector<std::vector<int64_t>>{{2 * rank, 2 * rank + 1}, {6 + 2 * rank, 7 + 2 * rank}}));
    EXPECT_EQ(loader.rows(), (BatchRows{2 * rank, 2 * rank + 2, 6}));
    loader.restore({0, 6});
    EXPECT_EQ(epoch_of(loader, first), (std::vector<std::vector<int64_t>>{{6 + 2 * rank, 7 + 2 * rank}}));
  }
}

TEST(IterableDataset, TheSizeIsKnownOrNot) {
  const Numbers data(7, true);
  EXPECT_EQ(DataLoader(data, {.batch_size = 3}).size(), 3);
  EXPECT_EQ(DataLoader(data, {.batch_size = 3, .drop_last = true}).size(), 2);
  expect_throws_with<Error>([] { return DataLoader(SeekingNumbers()).size(); },
                            "the number of batches is not known");
}

TEST(IterableDataset, AnEmptyStreamGivesNoBatch) {
  const Numbers data(0);
  DataLoader loader(data, {.batch_size = 3});
  EXPECT_FALSE(loader.next());
  EXPECT_EQ(loader.epoch(), 1);
}

TEST(IterableDataset, OptionsThatDoNotFitAreRefused) {
  const Numbers data(4);
  const auto make = [&](const DataLoaderOptions& options) {
    return [&data, options] { DataLoader loader(data, options); };
  };
  expect_throws_with<ConfigError>(make({.shuffle = true}), "shuffle is true");
  expect_throws_with<ConfigError>(make({.num_workers = 2}), "num_workers is 2");
  expect_throws_with<ConfigError>(make({.world_size = 2}), "world_size is 2 and drop_last is false");
  expect_throws_with<ConfigError>(make({.batch_size = 0}), "batch_size is 0");
  expect_throws_with<ConfigError>([] { DataLoader loader(std::shared_ptr<const IterableDataset>{}); },
                                  "no dataset");
  DataLoader loader(data, {.batch_size = 2});
  expect_throws_with<ConfigError>(
      [&] {
        loader.restore({0, 3});
      },
      "a position of 3 samples in an epoch of any number");
}

}  // namespace
}  // namespace diffusers

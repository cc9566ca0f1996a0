#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/data/loader.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_throws_with;

/// A dataset whose labels are the indices, and whose pixels are the lowest bits of the augmentation seed.
class CountingDataset : public Dataset {
 public:
  explicit CountingDataset(int64_t size, int slow_milliseconds = 0) : size_(size), slow_(slow_milliseconds) {}
  int64_t size() const override { return size_; }
  Batch get_batch(std::span<const int64_t> indices, uint64_t augmentation_seed) const override {
    ++reads;
    // The first of every four samples is the slowest, so workers finish out of order.
    if (slow_ > 0)
      std::this_thread::sleep_for(std::chrono::milliseconds(indices.front() % 4 == 0 ? 4 * slow_ : slow_));
    for (const int64_t index : indices)
      if (index == failing_index) throw FileError("example " + std::to_string(index) + " is broken");
    Tensor labels = at::empty({static_cast<int64_t>(indices.size())}, at::kLong);
    std::copy(indices.begin(), indices.end(), labels.mutable_data_ptr<int64_t>());
    const auto seed = static_cast<float>(augmentation_seed % 65536);
    return {at::full({static_cast<int64_t>(indices.size()), 1, 1, 1}, seed), labels};
  }

  mutable std::atomic<int> reads{0};
  std::atomic<int64_t> failing_index{-1};

 private:
  int64_t size_;
  int slow_;
};

/// Half of another dataset. It is copyable, so a loader can own a temporary.
class HalfDataset : public Dataset {
 public:
  explicit HalfDataset(std::shared_ptr<const Dataset> whole) : whole_(std::move(whole)) {}
  int64_t size() const override { return whole_->size() / 2; }
  Batch get_batch(std::span<const int64_t> indices, uint64_t augmentation_seed) const override {
    return whole_->get_batch(indices, augmentation_seed);
  }

 private:
  std::shared_ptr<const Dataset> whole_;
};

std::vector<int64_t> labels_of(const Batch& batch) {
  const auto* data = batch.class_labels.const_data_ptr<int64_t>();
  return {data, data + batch.class_labels.numel()};
}

std::vector<std::vector<int64_t>> one_epoch(DataLoader& loader) {
  std::vector<std::vector<int64_t>> batches;
  for (const Batch& batch : loader) batches.push_back(labels_of(batch));
  return batches;
}

TEST(DataLoader, OrderDependsOnSeedAndEpochAloneWhateverTheWorkers) {
  const CountingDataset data(103, 1);
  DataLoader reference(data, {.batch_size = 10, .shuffle = true, .seed = 7});
  EXPECT_EQ(reference.size(), 11);
  const std::vector<std::vector<std::vector<int64_t>>> epochs{one_epoch(reference), one_epoch(reference),
                                                              one_epoch(reference)};
  EXPECT_NE(epochs[0], epochs[1]);
  EXPECT_NE(epochs[1], epochs[2]);
  for (const auto& epoch : epochs) {
    std::multiset<int64_t> seen;
    for (const auto& batch : epoch) seen.insert(batch.begin(), batch.end());
    EXPECT_EQ(seen.size(), 103U);
    EXPECT_EQ(std::set<int64_t>(seen.begin(), seen.end()).size(), 103U);
    EXPECT_EQ(epoch.back().size(), 3U);
  }
  for (const int64_t workers : {1, 3, 8}) {
    DataLoader loader(data, {.batch_size = 10, .shuffle = true, .seed = 7, .num_workers = workers});
    for (const auto& epoch : epochs) EXPECT_EQ(one_epoch(loader), epoch) << workers;
  }
  DataLoader other(data, {.batch_size = 10, .shuffle = true, .seed = 8});
  EXPECT_NE(one_epoch(other), epochs[0]);
}

TEST(DataLoader, AugmentationSeedBelongsToTheEpoch) {
  const CountingDataset data(20);
  DataLoader plain(data, {.batch_size = 5});
  DataLoader threaded(data, {.batch_size = 5, .num_workers = 2});
  float before = -1;
  for (int epoch = 0; epoch < 3; ++epoch) {
    std::set<float> seeds;
    for (const Batch& batch : plain) seeds.insert(batch.images.max().item<float>());
    for (const Batch& batch : threaded) seeds.insert(batch.images.max().item<float>());
    ASSERT_EQ(seeds.size(), 1U);
    EXPECT_NE(*seeds.begin(), before);
    before = *seeds.begin();
  }
}

TEST(DataLoader, OrdersDoNotChangeFromVersionToVersion) {
  // A training that is resumed with a later version of the library must continue with the same batches.
  const CountingDataset data(10);
  DataLoader loader(data, {.batch_size = 4, .shuffle = true, .seed = 7});
  EXPECT_EQ(one_epoch(loader), (std::vector<std::vector<int64_t>>{{7, 2, 5, 1}, {4, 8, 0, 6}, {9, 3}}));
  EXPECT_EQ(one_epoch(loader), (std::vector<std::vector<int64_t>>{{6, 4, 7, 1}, {3, 8, 5, 2}, {9, 0}}));
}

TEST(DataLoader, ByDefaultTheOrderIsThatOfTheData) {
  const CountingDataset data(7);
  DataLoader loader(data, {.batch_size = 3, .drop_last = true});
  EXPECT_EQ(one_epoch(loader), (std::vector<std::vector<int64_t>>{{0, 1, 2}, {3, 4, 5}}));
  EXPECT_EQ(one_epoch(loader).size(), 2U);
  EXPECT_EQ(loader.epoch(), 2);
}

TEST(DataLoader, TakesOverATemporary) {
  DataLoader loader(HalfDataset(std::make_shared<CountingDataset>(7)), {.batch_size = 2});
  EXPECT_EQ(one_epoch(loader), (std::vector<std::vector<int64_t>>{{0, 1}, {2}}));
}

TEST(DataLoader, GoesOnFromEverySavedPosition) {
  const CountingDataset data(23);
  for (const int64_t workers : {0, 2}) {
    const DataLoaderOptions options{.batch_size = 4, .shuffle = true, .seed = 3, .num_workers = workers};
    DataLoader whole(data, options);
    std::vector<std::vector<int64_t>> expected;
    std::vector<DataLoaderPosition> positions{whole.position()};
    for (int epoch = 0; epoch < 2; ++epoch) {
      while (auto batch = whole.next()) {
        expected.push_back(labels_of(*batch));
        positions.push_back(whole.position());
      }
    }
    ASSERT_EQ(expected.size(), 12U);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      DataLoader resumed(data, options);
      resumed.restore(positions[i]);
      EXPECT_EQ(resumed.position(), positions[i]);
      auto batch = resumed.next();
      if (!batch) batch = resumed.next();
      EXPECT_EQ(labels_of(*batch), expected[i]) << i;
      whole.restore(positions[i]);
      batch = whole.next();
      if (!batch) batch = whole.next();
      EXPECT_EQ(labels_of(*batch), expected[i]) << i;
    }
  }
}

TEST(DataLoader, SetEpochKeepsAResumedPosition) {
  const CountingDataset data(12);
  DataLoader loader(data, {.batch_size = 4, .shuffle = true, .num_workers = 1});
  loader.restore({2, 8});
  loader.set_epoch(2);
  EXPECT_EQ(one_epoch(loader).size(), 1U);
  EXPECT_EQ(loader.position(), (DataLoaderPosition{3, 0}));
  loader.set_epoch(2);
  const auto again = one_epoch(loader);
  EXPECT_EQ(again.size(), 3U);
  DataLoader fresh(data, {.batch_size = 4, .shuffle = true});
  fresh.set_epoch(2);
  EXPECT_EQ(one_epoch(fresh), again);
}

TEST(DataLoader, ErrorsReachTheConsumerAndTheBatchIsTriedAgain) {
  for (const int64_t workers : {0, 3}) {
    CountingDataset data(40);
    data.failing_index = 17;
    DataLoader loader(data, {.batch_size = 5, .num_workers = workers});
    for (int i = 0; i < 3; ++i) EXPECT_EQ(labels_of(*loader.next()).front(), 5 * i);
    for (int i = 0; i < 2; ++i) expect_throws_with<FileError>([&] { loader.next(); }, "example 17 is broken");
    data.failing_index = -1;
    EXPECT_EQ(labels_of(*loader.next()).front(), 15);
    EXPECT_EQ(one_epoch(loader).size(), 4U);
  }
}

TEST(DataLoader, ReadsAheadWithinItsBoundAndStopsAtOnce) {
  const CountingDataset data(1000, 2);
  {
    DataLoader loader(data, {.batch_size = 1, .num_workers = 2, .prefetch = 3});
    loader.next();
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    EXPECT_GE(data.reads, 2);
    EXPECT_LE(data.reads, 7);
  }
  EXPECT_LE(data.reads, 7);
  for (int i = 0; i < 20; ++i) {
    DataLoader loader(data, {.batch_size = 2, .num_workers = 4});
    if (i % 2 == 0) loader.next();
    DataLoader moved = std::move(loader);
    if (i % 3 == 0) moved.next();
  }
}

/// Returns a given batch for each read.
class FixedDataset : public Dataset {
 public:
  explicit FixedDataset(Batch batch) : batch_(std::move(batch)) {}
  int64_t size() const override { return 8; }
  Batch get_batch(std::span<const int64_t>, uint64_t) const override { return batch_; }

 private:
  Batch batch_;
};

TEST(DataLoader, ABatchOfAnotherSizeThanAskedForIsRefused) {
  for (const int64_t workers : {0, 2}) {
    const auto next = [&](Batch batch) {
      return [workers, batch = std::move(batch)] {
        DataLoader loader(FixedDataset(batch), {.batch_size = 4, .num_workers = workers});
        return loader.next();
      };
    };
    EXPECT_TRUE(next({at::zeros({4, 1, 2, 2}), at::zeros({4}, at::kLong)})());
    EXPECT_TRUE(next({at::zeros({4, 1, 2, 2}), {}})());
    expect_throws_with<TensorError>(next({at::zeros({3, 1, 2, 2}), {}}),
                                    "asked for 4 samples and gave images float32 [3, 1, 2, 2]");
    expect_throws_with<TensorError>(next({at::zeros({5, 1, 2, 2}), {}}), "gave images float32 [5, 1, 2, 2]");
    expect_throws_with<TensorError>(next({at::zeros({4, 1, 2, 2}), at::zeros({3}, at::kLong)}),
                                    "asked for 4 samples and gave class_labels int64 [3]");
    expect_throws_with<TensorError>(next({at::zeros({4, 1, 2, 2}), at::zeros({}, at::kLong)}),
                                    "class_labels int64 []");
  }
}

/// Records the number of threads that LibTorch's operations may use in the thread that reads the data.
class ThreadCountingDataset : public Dataset {
 public:
  int64_t size() const override { return 16; }
  Batch get_batch(std::span<const int64_t> indices, uint64_t) const override {
    most = std::max<int>(most, at::get_num_threads());
    // This operation is large enough to start a team of threads.
    const Tensor work = at::randn({256, 256});
    return {at::mm(work, work)
                .mean()
                .reshape({1, 1, 1, 1})
                .repeat({static_cast<int64_t>(indices.size()), 1, 1, 1}),
            {}};
  }
  mutable std::atomic<int> most{0};
};

TEST(DataLoader, WorkersLeaveTheCoresToTheMainThread) {
  const int before = at::get_num_threads();
  at::set_num_threads(4);
  {
    const ThreadCountingDataset data;
    DataLoader loader(data, {.batch_size = 2, .num_workers = 3});
    while (loader.next()) {
    }
    EXPECT_EQ(data.most, 1);
    EXPECT_EQ(at::get_num_threads(), 4);
    DataLoader without(data, {.batch_size = 2});
    without.next();
    EXPECT_EQ(data.most, 4);
  }
  at::set_num_threads(before);
}

TEST(DataLoader, IndicesArePositionsInItsDataset) {
  const auto data = std::make_shared<CountingDataset>(9);
  for (const int64_t workers : {0, 2}) {
    DataLoader loader(data, {.batch_size = 4, .shuffle = true, .num_workers = workers});
    for (const Batch& batch : loader) test::expect_equal(batch.indices, batch.class_labels, "indices");
  }
}

TEST(DataLoader, ProcessesHaveTheirRowsOfEveryGlobalBatch) {
  const CountingDataset data(23);
  DataLoader whole(data, {.batch_size = 6, .shuffle = true, .seed = 5});
  const auto expected = one_epoch(whole);
  for (const int64_t workers : {0, 2}) {
    std::vector<DataLoader> ranks;
    for (int64_t rank = 0; rank < 3; ++rank)
      ranks.emplace_back(data, DataLoaderOptions{.batch_size = 2,
                                                 .shuffle = true,
                                                 .seed = 5,
                                                 .num_workers = workers,
                                                 .rank = rank,
                                                 .world_size = 3});
    for (const auto& global : expected) {
      std::vector<int64_t> joined;
      for (DataLoader& loader : ranks) {
        EXPECT_EQ(loader.size(), whole.size());
        const auto begin = static_cast<int64_t>(joined.size());
        const auto labels = labels_of(*loader.next());
        joined.insert(joined.end(), labels.begin(), labels.end());
        EXPECT_EQ(loader.rows(), (BatchRows{begin, static_cast<int64_t>(joined.size()),
                                            static_cast<int64_t>(global.size())}));
      }
      EXPECT_EQ(joined, global);
      for (DataLoader& loader : ranks) EXPECT_EQ(loader.position(), ranks.front().position());
    }
    for (DataLoader& loader : ranks) EXPECT_FALSE(loader.next());
  }
}

TEST(DataLoader, AProcessWithoutRowsGetsAnEmptyBatch) {
  const CountingDataset data(5);
  DataLoader loader(data, {.batch_size = 1, .rank = 0, .world_size = 4});
  EXPECT_EQ(loader.size(), 2);
  EXPECT_EQ(labels_of(*loader.next()), std::vector<int64_t>{0});
  EXPECT_EQ(loader.next()->size(), 0);
  EXPECT_EQ(loader.rows(), (BatchRows{0, 0, 1}));
  DataLoader last(data, {.batch_size = 1, .rank = 3, .world_size = 4});
  EXPECT_EQ(labels_of(*last.next()), std::vector<int64_t>{3});
  EXPECT_EQ(labels_of(*last.next()), std::vector<int64_t>{4});
  EXPECT_EQ(last.position(), (DataLoaderPosition{0, 8}));
}

/// Images of two sizes: every third sample is larger.
class TwoSizes : public CountingDataset {
 public:
  using CountingDataset::CountingDataset;
  std::vector<int64_t> buckets() const override {
    std::vector<int64_t> buckets;
    for (int64_t i = 0; i < size(); ++i) buckets.push_back(i % 3 == 0 ? 640 : 512);
    return buckets;
  }
};

TEST(DataLoader, ABatchHoldsSamplesOfOneBucket) {
  const TwoSizes data(22);  // 8 and 14
  DataLoader plain(data, {.batch_size = 4});
  EXPECT_EQ(one_epoch(plain),
            (std::vector<std::vector<int64_t>>{
                {1, 2, 4, 5}, {0, 3, 6, 9}, {7, 8, 10, 11}, {13, 14, 16, 17}, {12, 15, 18, 21}, {19, 20}}));
  for (const int64_t workers : {0, 2}) {
    const DataLoaderOptions options{.batch_size = 4, .shuffle = true, .seed = 3, .num_workers = workers};
    DataLoader loader(data, options);
    EXPECT_EQ(loader.size(), 6);
    std::vector<std::vector<int64_t>> batches;
    std::multiset<int64_t> seen;
    while (auto batch = loader.next()) {
      batches.push_back(labels_of(*batch));
      for (const int64_t label : batches.back()) {
        EXPECT_EQ(label % 3 == 0, batches.back().front() % 3 == 0);
        seen.insert(label);
      }
      DataLoader resumed(data, options);
      resumed.restore({0, 4 * static_cast<int64_t>(batches.size() - 1)});
      EXPECT_EQ(labels_of(*resumed.next()), batches.back());
    }
    EXPECT_EQ(batches.size(), 6U);
    EXPECT_EQ(seen.size(), 22U);
    EXPECT_EQ(std::set<int64_t>(seen.begin(), seen.end()).size(), 22U);
  }
  DataLoader dropping(data, {.batch_size = 4, .drop_last = true});
  EXPECT_EQ(dropping.size(), 5);
  EXPECT_EQ(one_epoch(dropping).size(), 5U);

  class Wrong : public TwoSizes {
   public:
    using TwoSizes::TwoSizes;
    std::vector<int64_t> buckets() const override { return {1, 2}; }
  };
  expect_throws_with<ConfigError>([] { DataLoader loader(std::make_shared<Wrong>(5)); },
                                  "has 5 samples, but buckets() gives 2 numbers");
}

TEST(DataLoader, OptionsThatCannotWorkAreRefused) {
  const CountingDataset data(3);
  const auto make = [&](const DataLoaderOptions& options) {
    return [&data, options] { DataLoader loader(data, options); };
  };
  expect_throws_with<ConfigError>(make({.batch_size = 0}), "batch_size is 0");
  expect_throws_with<ConfigError>(make({.batch_size = 4, .drop_last = true}), "only 3 samples");
  expect_throws_with<ConfigError>(make({.num_workers = -1}), "num_workers is -1");
  expect_throws_with<ConfigError>(make({.prefetch = 0}), "prefetch is 0");
  expect_throws_with<ConfigError>(make({.world_size = 0}), "world_size is 0");
  expect_throws_with<ConfigError>(make({.rank = 2, .world_size = 2}), "rank is 2, expected 0 to 1");
  expect_throws_with<ConfigError>(make({.rank = -1}), "rank is -1");
  expect_throws_with<ConfigError>(make({.batch_size = 2, .drop_last = true, .world_size = 2}),
                                  "batch_size is 4");
  expect_throws_with<ConfigError>([] { DataLoader loader(std::make_shared<CountingDataset>(0)); }, "empty");
  expect_throws_with<ConfigError>([] { DataLoader loader(std::shared_ptr<const Dataset>{}); }, "no dataset");
  DataLoader loader(data, {.batch_size = 2});
  expect_throws_with<ConfigError>([&] { loader.restore({0, 1}); }, "a position of 1 samples");
  expect_throws_with<ConfigError>([&] { loader.restore({0, 6}); }, "a position of 6");
  expect_throws_with<ConfigError>([&] { loader.set_epoch(-1); }, "epoch is -1");
}

}  // namespace
}  // namespace diffusers

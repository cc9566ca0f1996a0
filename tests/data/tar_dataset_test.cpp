#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/data/image_folder.h>
#include <diffusers/data/loader.h>
#include <diffusers/data/tar_dataset.h>
#include <diffusers/io/image.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "io/tar_writer.h"
#include "support/golden.h"
#include "support/tar_bytes.h"

namespace diffusers {
namespace {

using test::expect_equal;
using test::expect_throws_with;
using test::TemporaryFolder;
using Names = std::vector<std::string>;

Tensor picture(int64_t number) { return at::full({3, 4, 6}, number % 256, at::kByte); }

/// Shards s-0.tar, s-1.tar, ... of the samples "SHARD.NUMBER".
class Shards {
 public:
  explicit Shards(std::vector<int64_t> sizes) : count_(sizes.size()) {
    for (std::size_t shard = 0; shard < sizes.size(); ++shard) {
      TarWriter writer(path(shard));
      for (int64_t i = 0; i < sizes[shard]; ++i) {
        const std::string key = std::to_string(i);
        writer.add(key + ".png", encode_png(picture(i)));
        writer.add(key + ".txt", std::to_string(shard) + "." + key);
        writer.add(key + ".cls", std::to_string(i % 10));
        all_.insert(std::to_string(shard) + "." + key);
      }
      writer.commit();
    }
  }

  std::string path(std::size_t shard) const { return folder_ / ("s-" + std::to_string(shard) + ".tar"); }
  std::string pattern() const { return folder_ / ("s-{0.." + std::to_string(count_ - 1) + "}.tar"); }
  const std::set<std::string>& all() const { return all_; }

 private:
  TemporaryFolder folder_;
  std::size_t count_;
  std::set<std::string> all_;
};

/// Returns the captions of an epoch.
Names epoch_of(DataLoader& loader) {
  Names names;
  for (const Batch& batch : loader) names.insert(names.end(), batch.captions.begin(), batch.captions.end());
  return names;
}

std::set<std::string> set_of(const Names& names) { return {names.begin(), names.end()}; }

TEST(TarDataset, HasTheSamplesOfAnImageFolder) {
  const TemporaryFolder folder;
  create_folders(folder / "images");
  const at::Tensor image = at::arange(3 * 20 * 30).remainder(256).to(at::kByte).view({3, 20, 30});
  save_image(image, folder / "images/a.png");
  write_file("{\"file_name\": \"a.png\", \"text\": \"caption\", \"label\": 3}\n",
             folder / "images/metadata.jsonl");
  TarWriter writer(folder / "a.tar");
  writer.add("a.png", encode_png(image));
  writer.add("a.json", R"({"text": "caption", "label": 3})");
  writer.commit();
  const ImageFolder expected(folder / "images",
                             {.resolution = 8, .center_crop = true, .image_interpolation_mode = "lanczos"});
  const TarDataset data(folder / "a.tar",
                        {.resolution = 8, .center_crop = true, .image_interpolation_mode = "lanczos"});
  EXPECT_TRUE(data.has_captions() && data.has_labels());
  EXPECT_EQ(data.shards(), (Names{folder / "a.tar"}));
  EXPECT_FALSE(data.size());
  const Batch batch = *DataLoader(data).next();
  const Batch same = expected.get_batch(std::vector<int64_t>{0});
  expect_equal(batch.images, same.images, "images");
  expect_equal(batch.original_sizes, same.original_sizes, "original_sizes");
  expect_equal(batch.crop_top_lefts, same.crop_top_lefts, "crop_top_lefts");
  expect_equal(batch.class_labels, same.class_labels, "class_labels");
  EXPECT_EQ(batch.captions, same.captions);
  EXPECT_FALSE(batch.indices.defined());
}

TEST(TarDataset, IsInOrderOrShuffledInEachEpoch) {
  const Shards shards({5, 7, 4});
  DataLoader ordered(TarDataset(shards.pattern(), {.shuffle_buffer_size = 0, .shuffle_shards = false}),
                     {.batch_size = 3});
  const Names in_order = epoch_of(ordered);
  EXPECT_TRUE(in_order.front() == "0.0" && in_order[5] == "1.0" && in_order.back() == "2.3");
  EXPECT_EQ(epoch_of(ordered), in_order);
  const TarDataset data(shards.pattern(), {.shuffle_buffer_size = 4});
  DataLoader loader(data, {.batch_size = 3, .seed = 5});
  const Names first = epoch_of(loader);
  const Names second = epoch_of(loader);
  for (const Names& epoch : {in_order, first, second}) {
    EXPECT_EQ(epoch.size(), 16U);
    EXPECT_EQ(set_of(epoch), shards.all());
  }
  EXPECT_NE(first, in_order);
  EXPECT_NE(first, second);
  DataLoader again(data, {.batch_size = 3, .seed = 5, .num_workers = 1});
  EXPECT_EQ(epoch_of(again), first);
  DataLoader other(data, {.batch_size = 3, .seed = 6});
  EXPECT_NE(epoch_of(other), first);
}

TEST(TarDataset, AugmentationDependsOnEpochAndSampleAlone) {
  const Shards shards({6, 6});
  const TarDataset data(shards.pattern(), {.resolution = 4, .shuffle_buffer_size = 5});
  DataLoader one(data, {.batch_size = 1});
  DataLoader two(data, {.batch_size = 2, .num_workers = 2});
  std::map<std::string, int64_t> crops;
  for (const Batch& batch : one)
    crops[batch.captions.front()] = batch.crop_top_lefts.select(1, 1).item<int64_t>();
  std::set<int64_t> drawn;
  for (const Batch& batch : two)
    for (std::size_t i = 0; i < batch.captions.size(); ++i) {
      const auto left = batch.crop_top_lefts[static_cast<int64_t>(i)][1].item<int64_t>();
      EXPECT_EQ(left, crops.at(batch.captions[i])) << batch.captions[i];
      drawn.insert(left);
    }
  EXPECT_GT(drawn.size(), 1U);
}

/// Checks that a loader continues from every position as if it had not been interrupted.
void expect_exact_resume(const TarDataset& data, const DataLoaderOptions& options) {
  DataLoader whole(data, options);
  std::vector<Names> batches;
  std::vector<Tensor> images;
  std::vector<DataLoaderPosition> positions{whole.position()};
  for (int epoch = 0; epoch < 2; ++epoch)
    while (auto batch = whole.next()) {
      batches.push_back(batch->captions);
      images.push_back(batch->images);
      positions.push_back(whole.position());
    }
  for (std::size_t i = 0; i < batches.size(); ++i) {
    DataLoader resumed(data, options);
    resumed.restore(positions[i]);
    for (std::size_t j = i; j < std::min(i + 3, batches.size()); ++j) {
      auto batch = resumed.next();
      if (!batch) batch = resumed.next();
      ASSERT_TRUE(batch) << i << " " << j;
      EXPECT_EQ(batch->captions, batches[j]) << i << " " << j;
      expect_equal(batch->images, images[j], "images");
      EXPECT_EQ(resumed.position(), positions[j + 1]);
    }
  }
}

TEST(TarDataset, GoesOnFromEverySavedPosition) {
  const Shards shards({9, 3, 12, 1, 8});
  const std::string pattern = shards.pattern();
  for (const int64_t buffer : {0, 2, 7, 100})
    for (const int64_t workers : {0, 1, 3})
      expect_exact_resume(
          TarDataset(pattern, {.resolution = 4, .random_flip = true, .shuffle_buffer_size = buffer}),
          {.batch_size = 4, .num_workers = workers});
  expect_exact_resume(TarDataset(pattern, {.resolution = 4, .shuffle_buffer_size = 3, .num_samples = 50}),
                      {.batch_size = 4, .num_workers = 2});
  expect_exact_resume(TarDataset(pattern, {.resolution = 4, .shuffle_buffer_size = 3, .num_samples = 20}),
                      {.batch_size = 4, .drop_last = true, .num_workers = 2, .rank = 1, .world_size = 2});
}

TEST(TarDataset, ThreadsShareTheShards) {
  const Shards shards({9, 3, 12, 1, 8});
  const TarDataset data(shards.pattern(), {.shuffle_buffer_size = 4});
  EXPECT_EQ(data.max_parts(), 5);
  for (const int64_t workers : {2, 4, 5}) {
    DataLoader loader(data, {.batch_size = 2, .num_workers = workers});
    const Names first = epoch_of(loader);
    EXPECT_EQ(first.size(), 33U);
    EXPECT_EQ(set_of(first), shards.all());
    EXPECT_EQ(loader.position(), (DataLoaderPosition{1, 0}));
    DataLoader again(data, {.batch_size = 2, .num_workers = workers});
    EXPECT_EQ(epoch_of(again), first);
  }
}

TEST(TarDataset, ProcessesShareTheShards) {
  const Shards shards({8, 8, 8, 8, 8, 8});
  // Without repetition: what two ranks with two threads read in a pass is disjoint and complete.
  const TarDataset whole(shards.pattern(), {.shuffle_buffer_size = 4});
  Names read;
  for (int64_t rank = 0; rank < 3; ++rank)
    for (int64_t worker = 0; worker < 2; ++worker) {
      const auto stream =
          whole.open_part(7, {.rank = rank, .world_size = 3, .worker = worker, .num_workers = 2});
      while (const auto sample = stream->next()) read.push_back(sample->captions.front());
    }
  EXPECT_EQ(read.size(), 48U);
  EXPECT_EQ(set_of(read), shards.all());

  const TarDataset data(shards.pattern(), {.shuffle_buffer_size = 4, .num_samples = 48});
  Names together;
  for (int64_t rank = 0; rank < 2; ++rank) {
    DataLoader loader(data, {.batch_size = 4, .drop_last = true, .rank = rank, .world_size = 2});
    EXPECT_EQ(loader.size(), 6);
    const Names mine = epoch_of(loader);
    EXPECT_EQ(loader.rows(), (BatchRows{4 * rank, 4 * rank + 4, 8}));
    together.insert(together.end(), mine.begin(), mine.end());
  }
  EXPECT_EQ(together.size(), 48U);
  EXPECT_EQ(set_of(together), shards.all());
}

TEST(TarDataset, AnEpochMayHaveANumberOfSamples) {
  const Shards shards({4, 4});
  DataLoader more(TarDataset(shards.pattern(), {.shuffle_buffer_size = 0, .num_samples = 20}),
                  {.batch_size = 3});
  EXPECT_EQ(more.size(), 7);
  const Names epoch = epoch_of(more);
  ASSERT_EQ(epoch.size(), 20U);
  EXPECT_EQ(set_of({epoch.begin(), epoch.begin() + 8}), shards.all());
  EXPECT_EQ(set_of({epoch.begin() + 8, epoch.begin() + 16}), shards.all());
  DataLoader threads(TarDataset(shards.pattern(), {.num_samples = 7}), {.batch_size = 2, .num_workers = 2});
  EXPECT_EQ(threads.size(), 4);  // 3 and 4 samples
  EXPECT_EQ(epoch_of(threads).size(), 7U);
}

TEST(TarDataset, ResumingDoesNotDecodeTheSamplesBefore) {
  const TemporaryFolder folder;
  TarWriter writer(folder / "s.tar");
  for (int i = 0; i < 40; ++i) {
    writer.add(std::to_string(i) + ".png", i > 0 && i < 20 ? "not an image" : encode_png(picture(i)));
    writer.add(std::to_string(i) + ".txt", std::to_string(i));
  }
  writer.commit();
  DataLoader loader(TarDataset(folder / "s.tar", {.shuffle_buffer_size = 0}), {.batch_size = 1});
  loader.restore({0, 25});
  EXPECT_EQ(loader.next()->captions.front(), "25");
  loader.restore({0, 1});
  for (int i = 0; i < 2; ++i)
    expect_throws_with<FileError>([&] { loader.next(); },
                                  "s.tar: member \"1.png\": expected a PNG or JPEG image");
}

TEST(TarDataset, DamagedShardsReachTheConsumer) {
  for (const int64_t workers : {0, 1, 2}) {
    const Shards shards({6, 6});
    DataLoader loader(TarDataset(shards.pattern(), {.shuffle_buffer_size = 0, .shuffle_shards = false}),
                      {.batch_size = 2, .num_workers = workers});
    const std::string bytes = read_text_file(shards.path(1));
    test::write_bytes(shards.path(1), bytes.substr(0, bytes.size() / 2));
    const auto read_all = [&] {
      while (loader.next()) continue;
    };
    for (int i = 0; i < 2; ++i) expect_throws_with<FileError>(read_all, "s-1.tar: ");
    test::write_bytes(shards.path(1), bytes);
    read_all();
    EXPECT_EQ(loader.epoch(), 1);
  }
}

TEST(TarDataset, OptionsAndShardsThatDoNotFitAreRefused) {
  const Shards shards({3, 3});
  const std::string pattern = shards.pattern();
  const auto make = [](const std::string& shards_pattern, const TarDatasetOptions& options = {}) {
    return [=] { const TarDataset data(shards_pattern, options); };
  };
  expect_throws_with<ConfigError>(make(pattern, {.resolution = 0}), "resolution is 0");
  expect_throws_with<ConfigError>(make(pattern, {.num_classes = -1}), "num_classes is -1");
  expect_throws_with<ConfigError>(make(pattern, {.channels = 2}), "channels is 2");
  expect_throws_with<ConfigError>(make(pattern, {.shuffle_buffer_size = -1}), "shuffle_buffer_size is -1");
  expect_throws_with<ConfigError>(make(pattern, {.num_samples = -1}), "num_samples is -1");
  expect_throws_with<ConfigError>(make("https://host/s-{0..3}.tar"),
                                  "is an address, expected the path of a local file");
  expect_throws_with<ConfigError>(make("s-{0..3.tar"), "unbalanced braces");
  expect_throws_with<FileError>(make(pattern + "::none.tar"),
                                "none.tar: there is no such shard; it is one of 3");
  expect_throws_with<FileError>(make("/tmp"), "/tmp: expected a shard, found a folder");
  expect_throws_with<FileError>(make(pattern, {.caption_column = "text"}),
                                "s-0.tar: sample \"0\" has no member .json");

  DataLoader few(TarDataset(pattern, {.num_classes = 2}), {.batch_size = 6});
  expect_throws_with<FileError>([&] { few.next(); }, "the class label of sample \"2\" is 2, expected 0 to 1");
  const TarDataset data(pattern);
  const auto load = [&](const DataLoaderOptions& options) {
    return [&data, options] { DataLoader(data, options); };
  };
  expect_throws_with<ConfigError>(load({.num_workers = 3}),
                                  "num_workers is 3 and world_size is 1, but at most 2");
  expect_throws_with<ConfigError>(load({.drop_last = true, .world_size = 2}),
                                  "would have different numbers of batches");
  expect_throws_with<ConfigError>(load({.shuffle = true}), "shuffle is true");
  expect_throws_with<ConfigError>([&] { data.open_part(0, {.world_size = 2, .num_workers = 2}); },
                                  "2 processes with 2 threads read the shards, of which there are 2");
  const TarDataset sized(pattern, {.num_samples = 5});
  expect_throws_with<ConfigError>(
      [&] { DataLoader(sized, {.batch_size = 4, .drop_last = true, .num_workers = 2}); },
      "less than a batch of the dataset's 5 samples");
}

}  // namespace
}  // namespace diffusers

// Trainings on an IterableDataset.

#include "training/loop/trainer_data.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/data/tar_dataset.h>
#include <diffusers/io/files.h>
#include <diffusers/io/image.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "io/tar_writer.h"
#include "support/golden.h"
#include "training/quick_training.h"
#include "training/resumable_training.h"

namespace diffusers {
namespace {

using test::expect_equal;
using test::expect_same_checkpoint;
using test::expect_throws_with;
using test::quiet_config;
using test::resumable_config;
using test::seeded_net;
using test::TemporaryFolder;
using test::TinyImages;
using test::TinyNet;

/// Images that can only be read in order, other ones in each epoch.
class StreamedImages : public IterableDataset {
 public:
  explicit StreamedImages(int64_t length, std::optional<int64_t> size = std::nullopt, int64_t classes = 0)
      : length_(length), size_(size), classes_(classes) {}
  std::unique_ptr<SampleStream> open(uint64_t epoch_seed) const override {
    return std::make_unique<Stream>(length_, static_cast<double>(epoch_seed % 1000));
  }
  std::optional<int64_t> size() const override { return size_; }
  int64_t class_count() const override { return classes_; }

 private:
  class Stream : public SampleStream {
   public:
    Stream(int64_t length, double phase) : length_(length), phase_(phase) {}
    std::optional<Batch> next() override {
      if (position_ >= length_) return std::nullopt;
      const double first = phase_ + static_cast<double>(position_++);
      return Batch{.images = at::linspace(first, first + 5, 36, at::kFloat).sin().view({1, 6, 6})};
    }

   private:
    int64_t length_;
    double phase_;
    int64_t position_ = 0;
  };

  int64_t length_;
  std::optional<int64_t> size_;
  int64_t classes_;
};

/// Keeps the images of each batch.
class WatchingTask : public DiffusionTask {
 public:
  using DiffusionTask::DiffusionTask;
  void check_batch(const Batch& batch) override {
    DiffusionTask::check_batch(batch);
    images.push_back(batch.images);
  }
  std::vector<Tensor> images;
};

TEST(IterableTraining, ReadsTheStreamInItsOrderEpochAfterEpoch) {
  const StreamedImages data(10);
  const TemporaryFolder folder;
  TrainingConfig config = quiet_config(folder.path());
  config.max_train_steps = 7;
  const auto task = std::make_shared<WatchingTask>(make_trainable(seeded_net()), DDPMScheduler());
  const TrainingResult result = Trainer(task, config).train(data);
  EXPECT_TRUE(result.is_complete);
  EXPECT_EQ(result.global_step, 7);
  EXPECT_EQ(result.epoch, 2);
  ASSERT_EQ(task->images.size(), 7U);
  DataLoader loader(data, {.batch_size = 4, .seed = 3});
  for (const Tensor& images : task->images) {
    std::optional<Batch> expected = loader.next();
    if (!expected) expected = loader.next();
    expect_equal(images, expected->images);
  }
  EXPECT_EQ(task->images[2].size(0), 2);
  EXPECT_FALSE(at::equal(task->images[0], task->images[3]));
  EXPECT_NE(read_text_file(folder / "report.html").find("IterableDataset of unknown size"),
            std::string::npos);
}

TEST(IterableTraining, CountsEpochsIfTheSizeIsKnown) {
  const TemporaryFolder folder;
  TrainingConfig config = quiet_config(folder.path());
  config.num_epochs = 2;
  config.gradient_accumulation_steps = 2;
  // Batches of 4, 4 and 2: two steps an epoch.
  EXPECT_EQ(Trainer(seeded_net(), DDPMScheduler(), config).train(StreamedImages(10, 10)).global_step, 4);
  EXPECT_NE(read_text_file(folder / "report.html").find("10 examples"), std::string::npos);
}

TEST(IterableTraining, ValidatesOnHeldOutData) {
  const TemporaryFolder folder;
  TrainingConfig config = quiet_config(folder.path());
  config.max_train_steps = 4;
  config.validation_steps = 2;
  Trainer trainer(seeded_net(), DDPMScheduler(), config);
  std::vector<int64_t> steps;
  trainer.on_validation([&](const ValidationResult& result) { steps.push_back(result.step); });
  trainer.train(StreamedImages(10), TinyImages(6));
  EXPECT_EQ(steps, (std::vector<int64_t>{2, 4}));
}

TrainingResult train_stream_until(const TrainingConfig& config, int64_t stop, const IterableDataset& data) {
  TinyNet model(0.2);
  if (!config.resume_from_checkpoint) {
    manual_seed(1);
    model = TinyNet(0.2);
  }
  Trainer trainer(model, DDPMScheduler(), config);
  trainer.on_step([&](int64_t step) {
    if (step == stop) trainer.request_stop();
  });
  return trainer.train(data);
}

TEST(IterableTraining, ResumesBitForBit) {
  // Batches of 3, two a step: the last batch of an epoch is whole or smaller, the last step has two or one.
  for (const int64_t length : {18, 16, 15}) {
    const StreamedImages data(length);
    const TemporaryFolder whole;
    EXPECT_TRUE(train_stream_until(resumable_config(whole.path()), -1, data).is_complete);
    for (const int64_t stop : {1, 2, 3, 4, 6, 8}) {
      SCOPED_TRACE(length * 100 + stop);
      const TemporaryFolder folder;
      TrainingConfig config = resumable_config(folder.path());
      config.dataloader_num_workers = stop % 2;
      EXPECT_FALSE(train_stream_until(config, stop, data).is_complete);
      config.resume_from_checkpoint = "latest";
      config.dataloader_num_workers = 1 - config.dataloader_num_workers;
      EXPECT_TRUE(train_stream_until(config, -1, data).is_complete);
      expect_same_checkpoint(folder / "checkpoint-9", whole / "checkpoint-9");
    }
  }
}

TEST(IterableTraining, ComparesTheDataOfTheCheckpoint) {
  const TemporaryFolder folder;
  TrainingConfig config = resumable_config(folder.path());
  train_stream_until(config, 4, StreamedImages(18, 18));
  config.resume_from_checkpoint = "latest";
  expect_throws_with<ConfigError>([&] { train_stream_until(config, -1, StreamedImages(17, 17)); },
                                  "dataset_size is 17, but the checkpoint was trained with 18");
  expect_throws_with<ConfigError>([&] { train_stream_until(config, -1, StreamedImages(18)); },
                                  "dataset_size is null, but the checkpoint was trained with 18");
  expect_throws_with<ConfigError>(
      [&] { test::train_until(config, -1); },
      "the data is a dataset with random access, but the checkpoint was trained on an IterableDataset");

  const TemporaryFolder other;
  config = resumable_config(other.path());
  test::train_until(config, 4);
  config.resume_from_checkpoint = "latest";
  expect_throws_with<ConfigError>(
      [&] { train_stream_until(config, -1, StreamedImages(18, 18)); },
      "the data is an IterableDataset, but the checkpoint was trained on a dataset with random access");
}

/// Three shards of gray images.
class GrayShards {
 public:
  GrayShards() {
    for (int shard = 0; shard < 3; ++shard) {
      TarWriter writer(folder_ / ("s-" + std::to_string(shard) + ".tar"));
      for (int i = 0; i < 5 + shard; ++i)
        writer.add(std::to_string(i) + ".png", encode_png(at::full({1, 6, 9}, shard * 50 + i, at::kByte)));
      writer.commit();
    }
  }
  TarDataset open(int64_t shuffle_buffer_size = 4) const {
    return TarDataset(
        folder_ / "s-{0..2}.tar",
        {.resolution = 6, .random_flip = true, .channels = 1, .shuffle_buffer_size = shuffle_buffer_size});
  }

 private:
  TemporaryFolder folder_;
};

TEST(IterableTraining, ShardsResumeBitForBit) {
  const GrayShards shards;
  const TarDataset data = shards.open();
  // 18 samples: one thread has 6 batches in an epoch, three steps; two threads have smaller last batches.
  for (const int64_t workers : {1, 2}) {
    const TemporaryFolder whole;
    TrainingConfig config = resumable_config(whole.path());
    config.dataloader_num_workers = workers;
    EXPECT_TRUE(train_stream_until(config, -1, data).is_complete);
    for (const int64_t stop : {1, 3, 5}) {
      SCOPED_TRACE(workers * 100 + stop);
      const TemporaryFolder folder;
      config.output_dir = folder.path();
      config.resume_from_checkpoint.reset();
      EXPECT_FALSE(train_stream_until(config, stop, data).is_complete);
      config.resume_from_checkpoint = "latest";
      EXPECT_TRUE(train_stream_until(config, -1, data).is_complete);
      expect_same_checkpoint(folder / "checkpoint-9", whole / "checkpoint-9");
    }
  }
}

TEST(BucketedTraining, AccumulatesBatchesOfSeveralSizesAndResumesBitForBit) {
  const test::BucketedImages data(20);
  const auto train = [&](const TrainingConfig& config, int64_t stop) {
    TinyNet model(0.2);
    if (!config.resume_from_checkpoint) {
      manual_seed(1);
      model = TinyNet(0.2);
    }
    Trainer trainer(model, DDPMScheduler(), config);
    trainer.on_step([&](int64_t step) {
      if (step == stop) trainer.request_stop();
    });
    return trainer.train(data, data);
  };
  const TemporaryFolder whole;
  TrainingConfig config = resumable_config(whole.path());
  config.validation_samples = 15;
  EXPECT_TRUE(train(config, -1).is_complete);
  for (const int64_t stop : {2, 4, 7}) {
    SCOPED_TRACE(stop);
    const TemporaryFolder folder;
    config.output_dir = folder.path();
    config.resume_from_checkpoint.reset();
    EXPECT_FALSE(train(config, stop).is_complete);
    config.resume_from_checkpoint = "latest";
    EXPECT_TRUE(train(config, -1).is_complete);
    expect_same_checkpoint(folder / "checkpoint-9", whole / "checkpoint-9");
  }
}

TEST(BucketedTraining, ValidationCountsEverySample) {
  const auto losses = [](const Dataset& held_out, int64_t batch_size) {
    const TemporaryFolder folder;
    TrainingConfig config = quiet_config(folder.path());
    config.max_train_steps = 1;
    config.learning_rate = 0.0;
    config.validation_samples = 15;
    config.validation_bins = 5;
    config.train_batch_size = batch_size;
    Trainer trainer(seeded_net(), DDPMScheduler(), config);
    std::vector<ValidationResult> results;
    trainer.on_validation([&](const ValidationResult& result) { results.push_back(result); });
    trainer.train(held_out, held_out);
    return results.back();
  };
  for (const int64_t batch_size : {1, 4}) {
    const ValidationResult result = losses(test::BucketedImages(20), batch_size);
    // Five bins of three samples each.
    double mean = 0;
    for (const double bin : result.bin_losses) mean += bin / 5;
    EXPECT_NEAR(mean, result.loss, 1e-9);
  }
}

TEST(IterableTraining, ComparesTheOrderOfShards) {
  const GrayShards shards;
  const TemporaryFolder folder;
  TrainingConfig config = resumable_config(folder.path());
  train_stream_until(config, 2, shards.open());
  config.resume_from_checkpoint = "latest";
  expect_throws_with<ConfigError>([&] { train_stream_until(config, -1, shards.open(5)); },
                                  "the data is read in the order of \"3 shards, shuffle_buffer_size 5, "
                                  "shuffle_shards true, num_samples 0\", but "
                                  "the checkpoint was trained with \"3 shards, shuffle_buffer_size 4");
  config.dataloader_num_workers = 2;
  expect_throws_with<ConfigError>(
      [&] { train_stream_until(config, -1, shards.open()); },
      "dataloader_num_workers is 2, so 2 threads share the data, but the checkpoint was "
      "trained with 1");
  config.dataloader_num_workers = 4;
  expect_throws_with<ConfigError>([&] { train_stream_until(config, -1, shards.open()); },
                                  "dataloader_num_workers is 4, but the IterableDataset has 3 parts");
}

TEST(IterableTraining, RefusesAStreamThatEndsBeforeThePositionOfTheCheckpoint) {
  const TemporaryFolder folder;
  TrainingConfig config = resumable_config(folder.path());
  train_stream_until(config, 2, StreamedImages(18));
  config.resume_from_checkpoint = "latest";
  expect_throws_with<Error>([&] { train_stream_until(config, -1, StreamedImages(5)); },
                            "goes on after sample 12, but the stream ended after sample 5");
}

TEST(IterableTraining, RefusesWhatItCannotDo) {
  const TemporaryFolder folder;
  const std::string output_dir = folder / "run";
  const auto train = [&](const IterableDataset& data, void (*change)(TrainingConfig&)) {
    TrainingConfig config = quiet_config(output_dir);
    change(config);
    Trainer(seeded_net(), DDPMScheduler(), config).train(data);
  };
  const auto nothing = [](TrainingConfig&) {};
  expect_throws_with<ConfigError>([&] { train(StreamedImages(8), nothing); },
                                  "max_train_steps is not set, and the IterableDataset has no size()");
  expect_throws_with<ConfigError>(
      [&] { train(StreamedImages(8, 8), [](TrainingConfig& c) { c.dataloader_num_workers = 2; }); },
      "dataloader_num_workers is 2, but an IterableDataset is read by one thread");
  expect_throws_with<ConfigError>([&] { train(StreamedImages(0, 0), nothing); }, "the dataset is empty");
  EXPECT_FALSE(folder_exists(output_dir));
  expect_throws_with<Error>(
      [&] { train(StreamedImages(0), [](TrainingConfig& c) { c.max_train_steps = 2; }); },
      "the dataset gave no batch in epoch");

  test::LabelledNet labelled;
  labelled->facts.num_class_embeds = 3;
  expect_throws_with<ConfigError>(
      [&] {
        Trainer(labelled, DDPMScheduler(), quiet_config(output_dir))
            .train(StreamedImages(8, 8, /*classes=*/5));
      },
      "the dataset has 5 classes, but num_class_embeds of the model is 3");
}

}  // namespace
}  // namespace diffusers

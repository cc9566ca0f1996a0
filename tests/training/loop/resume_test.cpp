// Interrupted and resumed trainings, also with damaged checkpoints.

#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "io/manifest.h"
#include "support/golden.h"
#include "training/checkpoint/checkpoint.h"
#include "training/killed_training.h"
#include "training/quick_training.h"
#include "training/resumable_training.h"

namespace diffusers {
namespace {

using test::damage;
using test::expect_equal;
using test::expect_same_checkpoint;
using test::expect_throws_with;
using test::kSteps;
using test::LogCapture;
using test::resumable_config;
using test::resumable_images;
using test::TemporaryFolder;
using test::TinyImages;
using test::TinyNet;
using test::train_until;
using test::train_with_kills;

TEST(Resume, IsBitExactWhereverTheTrainingStopped) {
  const TemporaryFolder whole;
  EXPECT_TRUE(train_until(resumable_config(whole.path()), -1).is_complete);
  const std::string expected = whole / "checkpoint-9";

  // Stops in the middle and at the end of an epoch, in the second and the third epoch, and several times,
  // with previews that draw random numbers.
  const std::vector<std::vector<int64_t>> stops{{1}, {3}, {5}, {6, 8}, {1, 2, 3, 4, 5, 6, 7, 8}};
  for (const std::vector<int64_t>& steps : stops) {
    const TemporaryFolder folder;
    TrainingConfig config = resumable_config(folder.path());
    for (const int64_t step : steps) {
      const TrainingResult result = train_until(config, step, /*previews=*/true);
      EXPECT_FALSE(result.is_complete);
      EXPECT_EQ(result.global_step, step);
      config.resume_from_checkpoint = "latest";
    }
    EXPECT_TRUE(train_until(config, -1, true).is_complete);
    expect_same_checkpoint(folder / "checkpoint-9", expected);
    // The logged losses also equal those of the uninterrupted run.
    EXPECT_EQ(MetricsLog(folder.path(), 100).losses(), MetricsLog(whole.path(), 100).losses());
  }
}

TEST(Resume, IsBitExactOnADeviceWithDeterministicAlgorithms) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device";
  ::setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", 1);
  for (const MixedPrecision precision : {MixedPrecision::kNo, MixedPrecision::kFp16}) {
    const auto config_of = [&](const std::string& path) {
      TrainingConfig config = resumable_config(path);
      config.deterministic = true;
      config.mixed_precision = precision;
      return config;
    };
    // The log variance must be moved to the device of the model.
    const DiffusionTaskOptions options{.learned_log_variance = LogVarianceType::kTable};
    const TemporaryFolder whole;
    EXPECT_TRUE(train_until(config_of(whole.path()), -1, false, at::kCUDA, 0, options).is_complete);
    for (const int64_t stop : {1, 3, 5}) {
      const TemporaryFolder folder;
      TrainingConfig config = config_of(folder.path());
      train_until(config, stop, /*previews=*/true, at::kCUDA, 0, options);
      config.resume_from_checkpoint = "latest";
      EXPECT_TRUE(train_until(config, -1, true, at::kCUDA, 0, options).is_complete);
      expect_same_checkpoint(folder / "checkpoint-9", whole / "checkpoint-9");
    }
  }
}

TEST(Resume, ContinuesPowerAveragesAndALearnedLogVariance) {
  const auto config_of = [](const std::string& path) {
    TrainingConfig config = resumable_config(path);
    config.post_hoc_ema_sigma_rels = {0.1};
    config.post_hoc_ema_steps = kSteps;
    return config;
  };
  const DiffusionTaskOptions options{.learned_log_variance = LogVarianceType::kTable};
  const TemporaryFolder whole;
  train_until(config_of(whole.path()), -1, options);
  const TemporaryFolder folder;
  TrainingConfig config = config_of(folder.path());
  train_until(config, 5, options);
  config.resume_from_checkpoint = "latest";
  train_until(config, -1, options);
  expect_same_checkpoint(folder / "checkpoint-9", whole / "checkpoint-9");
  for (const char* name : {"power_ema/unet/power_ema-9-0.1.safetensors",
                           "checkpoint-9/log_variance_ema/diffusion_pytorch_model.safetensors"})
    EXPECT_EQ(read_text_file(folder / name), read_text_file(whole / name)) << name;
}

TEST(Resume, RemembersTheLossesThatTimestepsAreDrawnBy) {
  const DiffusionTaskOptions options{.timestep_sampling = TimestepSampling::kLossSecondMoment};
  const TemporaryFolder whole;
  train_until(resumable_config(whole.path()), -1, options);
  const TemporaryFolder folder;
  TrainingConfig config = resumable_config(folder.path());
  train_until(config, 4, options);
  config.resume_from_checkpoint = "latest";
  train_until(config, -1, options);
  expect_same_checkpoint(folder / "checkpoint-9", whole / "checkpoint-9");
  const TensorMap state = load_safetensors(folder / "checkpoint-9/trainer_state.safetensors");
  EXPECT_EQ(state.at("task.losses_seen").sum().item<int64_t>(), 54);  // 9 steps of 6
}

TEST(Resume, PreviewsAndWorkersDoNotDisturbTheTraining) {
  const TemporaryFolder plain;
  train_until(resumable_config(plain.path()), -1);
  const TemporaryFolder disturbed;
  TrainingConfig config = resumable_config(disturbed.path());
  config.dataloader_num_workers = 2;
  train_until(config, 4, true);
  config.dataloader_num_workers = 1;
  config.resume_from_checkpoint = "latest";
  train_until(config, -1, true);
  expect_same_checkpoint(disturbed / "checkpoint-9", plain / "checkpoint-9");
}

/// Trains with a checkpoint after each step, slowly enough to be killed before it ends. The test below runs
/// it in a separate process.
TEST(TrainingProcess, DISABLED_TrainsOrResumes) {
  const char* folder = std::getenv(test::kProcessFolder);
  ASSERT_NE(folder, nullptr);
  TrainingConfig config = resumable_config(folder);
  config.checkpointing_steps = 1;
  if (!list_checkpoints(folder).empty()) config.resume_from_checkpoint = "latest";
  train_until(config, -1, true, at::kCPU, /*pause=*/15000);
}

TEST(Resume, SurvivesBeingKilledAtAnyMoment) {
  const TemporaryFolder whole;
  train_until(resumable_config(whole.path()), -1);
  std::srand(1);
  constexpr int kWanted = 5;
  int kills = 0;
  for (int training = 0; kills < kWanted && training < 10 && !HasFailure(); ++training) {
    const TemporaryFolder folder;
    kills += train_with_kills(folder.path(), "TrainingProcess.*", kSteps);
    expect_same_checkpoint(folder / "checkpoint-9", whole / "checkpoint-9");
  }
  EXPECT_GE(kills, kWanted) << "the other processes had ended before they were killed";
}

TEST(Resume, TakesAPathOrAName) {
  const TemporaryFolder folder;
  TrainingConfig config = resumable_config(folder.path());
  config.checkpointing_steps = 2;
  train_until(config, -1);
  const std::string last = read_text_file(folder / "checkpoint-8/trainer_state.safetensors");
  for (const std::string& name : {std::string("checkpoint-4"), folder / "checkpoint-4"}) {
    remove_folder(folder / "checkpoint-8");
    config.resume_from_checkpoint = name;
    EXPECT_TRUE(train_until(config, -1).is_complete);
    EXPECT_EQ(read_text_file(folder / "checkpoint-8/trainer_state.safetensors"), last);
  }
  config.resume_from_checkpoint = "checkpoint-5";
  expect_throws_with<FileError>([&] { train_until(config, -1); }, "checkpoint-5");
}

TEST(Resume, FallsBackToTheNewestWholeCheckpoint) {
  const TemporaryFolder folder;
  TrainingConfig config = resumable_config(folder.path());
  config.checkpointing_steps = 3;
  train_until(config, 6);
  config.resume_from_checkpoint = "latest";
  enum Damage { kFlipped, kMissing, kEmpty };
  for (const char* name :
       {"unet/diffusion_pytorch_model.safetensors", "unet_ema/config.json", "optimizer.safetensors",
        "trainer_state.json", "trainer_state.safetensors", "manifest.json"}) {
    for (const Damage kind : {kFlipped, kMissing, kEmpty}) {
      const std::string path = join_path(folder / "checkpoint-6", name);
      const std::string whole = read_text_file(path);
      if (kind == kFlipped) damage(path);
      if (kind == kMissing) remove_file(path);
      if (kind == kEmpty) std::ofstream(path, std::ios::trunc).close();

      const LogCapture log;
      std::vector<int64_t> steps;
      TinyNet model;
      Trainer trainer(model, DDPMScheduler(), config);
      trainer.on_step([&](int64_t step) {
        steps.push_back(step);
        trainer.request_stop();
      });
      trainer.train(resumable_images());
      EXPECT_EQ(steps, std::vector<int64_t>{4}) << name << " " << kind;
      EXPECT_TRUE(log.contains("checkpoint-6")) << name << " " << kind;
      // A manifest with a flipped bit may still be readable. The error then names the file whose entry
      // changed.
      if (std::string_view(name) != "manifest.json") {
        EXPECT_TRUE(log.contains(name)) << name << " " << kind;
      }

      remove_folder(folder / "checkpoint-4");
      std::ofstream(path, std::ios::binary) << whole;
    }
  }
}

TEST(Resume, NeverStartsAgainAtZeroByItself) {
  const TemporaryFolder folder;
  TrainingConfig config = resumable_config(folder.path());
  config.checkpointing_steps = 3;
  train_until(config, 6);
  damage(folder / "checkpoint-3/optimizer.safetensors");
  damage(folder / "checkpoint-6/optimizer.safetensors");
  const LogCapture log;
  config.resume_from_checkpoint = "latest";
  expect_throws_with<FileError>([&] { train_until(config, -1); }, "none of the 2 checkpoints");
  config.resume_from_checkpoint = "checkpoint-3";
  expect_throws_with<FileError>([&] { train_until(config, -1); }, "SHA-256");

  // Without resume_from_checkpoint, a folder with checkpoints is refused unless overwrite_output_dir is true.
  config.resume_from_checkpoint.reset();
  expect_throws_with<ConfigError>([&] { train_until(config, -1); }, "overwrite_output_dir");
  config.overwrite_output_dir = true;
  EXPECT_TRUE(train_until(config, -1).is_complete);
  EXPECT_EQ(list_checkpoints(folder.path()), (std::vector<int64_t>{3, 6, 9}));

  const TemporaryFolder empty;
  config = resumable_config(empty.path());
  config.resume_from_checkpoint = "latest";
  EXPECT_TRUE(train_until(config, -1).is_complete);
  EXPECT_TRUE(log.contains("holds no checkpoint"));
}

TEST(Resume, RefusesAnotherTraining) {
  const TemporaryFolder folder;
  TrainingConfig config = resumable_config(folder.path());
  train_until(config, 3);
  config.resume_from_checkpoint = "latest";
  const auto with = [&](const std::function<void(TrainingConfig&)>& change) {
    TrainingConfig changed = config;
    change(changed);
    return [=] { train_until(changed, -1); };
  };
  expect_throws_with<ConfigError>(with([](TrainingConfig& c) { c.train_batch_size = 4; }),
                                  "train_batch_size is 4");
  expect_throws_with<ConfigError>(with([](TrainingConfig& c) { c.gradient_accumulation_steps = 1; }),
                                  "gradient_accumulation_steps is 1");
  expect_throws_with<ConfigError>(with([](TrainingConfig& c) { c.seed = 6; }), "seed is 6");
  expect_throws_with<ConfigError>(with([](TrainingConfig& c) { c.use_ema = false; }), "use_ema is false");
  expect_throws_with<ConfigError>(with([](TrainingConfig& c) { c.optimizer = OptimizerType::kSGD; }),
                                  "optimizer is");
  TinyNet model;
  Trainer trainer(model, DDPMScheduler(), config);
  expect_throws_with<ConfigError>([&] { trainer.train(TinyImages(17)); }, "dataset_size is 17");
}

/// A task that weights each step by the losses of the previous steps.
class HistoryTask : public DiffusionTask {
 public:
  using DiffusionTask::DiffusionTask;
  StepLoss loss(const Batch& batch, std::size_t update) override {
    const Tensor losses = DiffusionTask::loss(batch, update).loss;
    Tensor weighted = losses * history_.mean().add(1.0);
    history_ = at::cat({history_, losses.detach().mean().view({1})});
    return weighted;
  }
  TensorMap state() const override { return {{"losses", history_}}; }
  void load_state(const TensorMap& state) override { history_ = state.at("losses"); }
  const Tensor& history() const { return history_; }

 private:
  Tensor history_ = at::zeros({1});
};

TEST(Resume, RestoresTheStateOfTheTask) {
  const auto train = [](TrainingConfig config, int64_t stop) {
    manual_seed(1);
    auto task = std::make_shared<HistoryTask>(make_trainable(TinyNet(0.2)), DDPMScheduler());
    Trainer trainer(task, std::move(config));
    trainer.on_step([&](int64_t step) {
      if (step == stop) trainer.request_stop();
    });
    trainer.train(resumable_images());
    return task->history();
  };
  const TemporaryFolder whole;
  const Tensor expected = train(resumable_config(whole.path()), -1);
  EXPECT_EQ(expected.numel(), 1 + 2 * kSteps);
  const TemporaryFolder folder;
  TrainingConfig config = resumable_config(folder.path());
  train(config, 4);
  config.resume_from_checkpoint = "latest";
  expect_equal(train(config, -1), expected, "history");
  expect_same_checkpoint(folder / "checkpoint-9", whole / "checkpoint-9");

  // A task without state refuses a checkpoint with a task state.
  expect_throws_with<Error>([&] { train_until(config, -1); }, "\"losses\"");
}

}  // namespace
}  // namespace diffusers

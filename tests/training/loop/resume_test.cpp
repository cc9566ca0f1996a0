// Interruption, damage and resumption of trainings.

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/logging.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/json.h"
#include "io/folder_lock.h"
#include "io/manifest.h"
#include "support/golden.h"
#include "training/checkpoint/checkpoint.h"
#include "training/killed_training.h"
#include "training/loop/stop_signals.h"
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

  // Mid-epoch, at the end of an epoch, in the second and the third one, several times, with previews that
  // draw.
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
    // The logged losses are those of the whole run as well, times aside.
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
    // The log variance must follow the model to its device.
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

/// Trains with a checkpoint after each step, slowly enough to be killed before it ends; run as a process of
/// its own by the test below.
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
      // The manifest may stay readable with a bit flipped, and then accuses the file whose entry it was.
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

  // Without a word about resuming, a folder with checkpoints is refused, unless it may be overwritten.
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

TEST(Checkpoints, KeepTheNewestByNumber) {
  const TemporaryFolder folder;
  TrainingConfig config = resumable_config(folder.path());
  config.max_train_steps = 12;
  config.checkpointing_steps = 1;
  config.checkpoints_total_limit = 3;
  train_until(config, -1);
  // As text, "checkpoint-9" would be the last.
  EXPECT_EQ(list_checkpoints(folder.path()), (std::vector<int64_t>{10, 11, 12}));
  for (const int64_t step : {10, 11, 12})
    EXPECT_NO_THROW(verify_manifest(checkpoint_path(folder.path(), step)));
}

TEST(Checkpoints, HoldOrdinaryModelFolders) {
  const TemporaryFolder folder;
  train_until(resumable_config(folder.path()), 4);
  const TensorMap weights =
      load_safetensors(folder / "checkpoint-4/unet/diffusion_pytorch_model.safetensors");
  EXPECT_TRUE(weights.contains("conv_in.weight"));
  const Json config = parse_json(read_text_file(folder / "checkpoint-4/unet_ema/config.json"), "config.json");
  EXPECT_EQ(config.at("optimization_step"), 4);
  EXPECT_EQ(config.at("use_ema_warmup"), true);
  EXPECT_EQ(config.at("power"), 0.75);
}

TEST(Checkpoints, LeaveNothingOfAnInterruptedSave) {
  const TemporaryFolder folder;
  create_folders(folder / "checkpoint-2.partial/unet");
  create_folders(folder / "checkpoint-1.removed");
  create_folders(folder / "scheduler");
  const std::vector<std::string> temporary{".metrics.csv.123-0.tmp",
                                           "scheduler/.scheduler_config.json.7-12.tmp"};
  const std::vector<std::string> other{".notes.tmp", "notes.123-0.tmp", ".123-0.tmp", ".a.b-0.tmp",
                                       ".a.1-.tmp"};
  for (const auto& names : {temporary, other})
    for (const std::string& name : names) test::write_bytes(folder / name, "text");
  train_until(resumable_config(folder.path()), -1);
  EXPECT_FALSE(folder_exists(folder / "checkpoint-2.partial"));
  EXPECT_FALSE(folder_exists(folder / "checkpoint-1.removed"));
  for (const std::string& name : temporary) EXPECT_FALSE(file_exists(folder / name)) << name;
  for (const std::string& name : other) EXPECT_TRUE(file_exists(folder / name)) << name;
}

TEST(Checkpoints, MissNotEvenTheLastByteOfTheirManifest) {
  const TemporaryFolder folder;
  train_until(resumable_config(folder.path()), 4);
  const std::string manifest = folder / "checkpoint-4/manifest.json";
  const std::string text = read_text_file(manifest);
  test::write_bytes(manifest, std::string_view(text).substr(0, text.size() - 1));
  expect_throws_with<FileError>([&] { verify_manifest(folder / "checkpoint-4"); }, "cut short");
}

TEST(Checkpoints, HaveOneWriterAFolder) {
  const TemporaryFolder folder;
  const FolderLock lock(folder.path(), "output_dir", "training");
  expect_throws_with<FileError>([&] { train_until(resumable_config(folder.path()), -1); },
                                "another training");
}

TEST(Signals, SaveAndStopTheTraining) {
  const TemporaryFolder whole;
  train_until(resumable_config(whole.path()), -1);
  for (const int number : {SIGINT, SIGTERM, SIGUSR1}) {
    const TemporaryFolder folder;
    TrainingConfig config = resumable_config(folder.path());
    config.handle_signals = true;
    manual_seed(1);
    Trainer trainer(TinyNet(0.2), DDPMScheduler(), config);
    trainer.on_step([&](int64_t step) {
      if (step == 4) std::raise(number);
    });
    const TrainingResult result = trainer.train(resumable_images());
    EXPECT_EQ(result.signal, number);
    EXPECT_EQ(result.global_step, 4);
    EXPECT_FALSE(result.is_complete);
    config.resume_from_checkpoint = "latest";
    EXPECT_TRUE(train_until(config, -1).is_complete);
    expect_same_checkpoint(folder / "checkpoint-9", whole / "checkpoint-9");
  }
}

TEST(Signals, EndTheProgramTheSecondTime) {
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  for (const int number : {SIGINT, SIGTERM, SIGUSR1}) {
    const auto raise_twice = [&] {
      const StopSignals signals(true);
      std::raise(number);
      if (signals.received() == number) std::raise(number);
    };
    EXPECT_EXIT(raise_twice(), ::testing::KilledBySignal(number), "");
  }
}

TEST(Signals, AreSeenByPreviews) {
  const TemporaryFolder folder;
  TrainingConfig config = resumable_config(folder.path());
  config.validation_steps = 1;
  config.handle_signals = true;
  Trainer trainer(TinyNet(), DDPMScheduler(), config);
  std::vector<bool> answers;
  trainer.on_preview([&](const PreviewContext& context) {
    answers.push_back(context.stop_requested());
    if (context.step == 2) std::raise(SIGUSR1);
    answers.push_back(context.stop_requested());
  });
  EXPECT_EQ(trainer.train(resumable_images()).signal, SIGUSR1);
  EXPECT_EQ(answers, (std::vector<bool>{false, false, false, true}));
}

/// Weights each step by the losses of the steps before.
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

  // A task without a state does not drop one silently.
  expect_throws_with<Error>([&] { train_until(config, -1); }, "\"losses\"");
}

}  // namespace
}  // namespace diffusers

// The content of output_dir after a resume from an older checkpoint, or after another training starts there.

#include "training/checkpoint/output_folder.h"

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <diffusers/io/image.h>
#include <diffusers/training/progress.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "io/manifest.h"
#include "support/killed_process.h"
#include "training/checkpoint/checkpoint.h"
#include "training/quick_training.h"
#include "training/resumable_training.h"

namespace diffusers {
namespace {

using test::expect_same_checkpoint;
using test::expect_throws_with;
using test::kSteps;
using test::LogCapture;
using test::resumable_config;
using test::resumable_images;
using test::TemporaryFolder;
using test::TinyNet;
using test::train_until;
using test::write_bytes;

using StepList = std::vector<int64_t>;

/// Runs a process that is killed before it saves anything.
void train_and_die(const TrainingConfig& config, int64_t step) {
  Trainer trainer(TinyNet(0.2), DDPMScheduler(), config);
  trainer.on_step([&](int64_t done) {
    if (done == step) throw std::runtime_error("killed");
  });
  expect_throws_with<std::runtime_error>([&] { trainer.train(resumable_images()); }, "killed");
}

int64_t first_trained_step(const TrainingConfig& config) {
  int64_t first = 0;
  Trainer trainer(TinyNet(0.2), DDPMScheduler(), config);
  trainer.on_step([&](int64_t step) {
    if (first == 0) first = step;
  });
  trainer.train(resumable_images());
  return first;
}

TrainingConfig branching_config(const std::string& output_dir) {
  TrainingConfig config = resumable_config(output_dir);
  config.checkpointing_steps = 2;
  config.logging_steps = 1;
  return config;
}

TEST(OlderCheckpoint, LeavesABranchThatLatestNeverGoesOnWith) {
  const TemporaryFolder folder;
  TrainingConfig config = branching_config(folder.path());
  train_until(config, -1);
  EXPECT_EQ(list_checkpoints(folder.path()), (StepList{2, 4, 6, 8}));
  const std::string metrics = read_text_file(folder / "metrics.csv");

  // The resumed training ends before it writes a checkpoint.
  for (const bool background : {true, false}) {
    const LogCapture log;
    config.background_checkpoints = background;
    config.resume_from_checkpoint = "checkpoint-2";
    train_and_die(config, 3);
    EXPECT_EQ(list_checkpoints(folder.path()), StepList{2});
    EXPECT_EQ(log.contains("abandoned-1"), background) << "said when they are moved";
    EXPECT_EQ(MetricsLog(folder.path(), 100).steps(), (std::vector<double>{1, 2}));
  }
  // No file is lost: the abandoned folder is a complete output_dir.
  EXPECT_EQ(list_checkpoints(folder / "abandoned-1"), (StepList{4, 6, 8}));
  for (const int64_t step : {4, 6, 8})
    EXPECT_NO_THROW(verify_manifest(checkpoint_path(folder / "abandoned-1", step)));
  EXPECT_EQ(read_text_file(folder / "abandoned-1/metrics.csv"), metrics);

  config.resume_from_checkpoint = "latest";
  EXPECT_EQ(first_trained_step(config), 3);
  EXPECT_EQ(list_checkpoints(folder.path()), (StepList{2, 4, 6, 8}));
  expect_same_checkpoint(folder / "checkpoint-8", folder / "abandoned-1/checkpoint-8");

  // Starts a second branch, then returns to the first one.
  config.resume_from_checkpoint = folder / "checkpoint-6/";
  EXPECT_EQ(first_trained_step(config), 7);
  EXPECT_EQ(list_checkpoints(folder / "abandoned-2"), StepList{8});
  config.output_dir = folder / "abandoned-1";
  config.resume_from_checkpoint = "latest";
  EXPECT_EQ(first_trained_step(config), 9);

  config.output_dir = folder.path();
  config.resume_from_checkpoint = "checkpoint-9";
  expect_throws_with<FileError>([&] { train_until(config, -1); }, "there is no such folder");
  remove_folder(folder / "checkpoint-8");
  config.resume_from_checkpoint = "checkpoint-8";
  expect_throws_with<FileError>([&] { train_until(config, -1); }, "abandoned-2/checkpoint-8");
}

TEST(OlderCheckpoint, StaysWithinTheLimitOfItsOwnBranch) {
  const TemporaryFolder folder;
  TrainingConfig config = branching_config(folder.path());
  train_until(config, -1);
  config.resume_from_checkpoint = "checkpoint-4";
  config.checkpoints_total_limit = 2;
  const LogCapture log;
  train_until(config, 7);
  EXPECT_EQ(list_checkpoints(folder.path()), (StepList{6, 7}));
  EXPECT_EQ(list_checkpoints(folder / "abandoned-1"), (StepList{6, 8}));
}

TEST(OlderCheckpoint, IsNotLeftWhenTheCheckpointCannotBeLoaded) {
  const TemporaryFolder folder;
  TrainingConfig config = branching_config(folder.path());
  train_until(config, -1);
  config.resume_from_checkpoint = "checkpoint-2";
  config.learning_rate = 0.5;
  expect_throws_with<ConfigError>([&] { train_until(config, -1); }, "learning_rate is 0.5");
  config.learning_rate = 1e-2;
  test::damage(folder / "checkpoint-2/optimizer.safetensors");
  expect_throws_with<FileError>([&] { train_until(config, -1); }, "SHA-256");
  EXPECT_EQ(list_checkpoints(folder.path()), (StepList{2, 4, 6, 8}));
  EXPECT_FALSE(folder_exists(folder / "abandoned-1"));
}

TEST(OlderCheckpoint, SurvivesAKillAtAnySystemCallInBetween) {
  const test::MemoryScope memory;
  const std::vector<std::string> files{"checkpoint-2/a",   "checkpoint-4/a",
                                       "checkpoint-6/a",   "power_ema/unet/power_ema-4-0.1.safetensors",
                                       "previews/p-6.png", "metrics.csv"};
  int64_t begun = 0;
  std::unique_ptr<TemporaryFolder> folder;
  const auto before = [&] {
    folder = std::make_unique<TemporaryFolder>();
    for (const std::string& name : files) {
      create_folders(parent_folder(*folder / name));
      write_bytes(*folder / name, name);
    }
  };
  const auto set_aside = [&] {
    set_log_sink([](LogLevel, std::string_view) {});
    set_aside_after(folder->path(), 2);
  };
  const auto after = [&](int64_t call) {
    SCOPED_TRACE(call);
    const LogCapture log;
    finish_setting_aside(folder->path());
    const StepList left = list_checkpoints(folder->path());
    // It has not begun, or it is done.
    const bool is_done = folder_exists(*folder / "abandoned-1");
    EXPECT_EQ(left, is_done ? StepList{2} : (StepList{2, 4, 6}));
    begun += is_done ? 1 : 0;
    EXPECT_FALSE(file_exists(*folder / "setting_aside.json"));
    for (const std::string& name : files) {
      const bool stays = !is_done || name == files[0];
      EXPECT_EQ(read_text_file(stays ? *folder / name : *folder / ("abandoned-1/" + name)), name);
    }
  };
  const int64_t kills = test::kill_at_each_system_call(before, set_aside, after);
  if (kills == 0) GTEST_SKIP() << "a child process may not be traced here";
  EXPECT_GT(kills, 50);
  EXPECT_GT(begun, 30);
}

TEST(OutputFolder, AKillWhileItIsClearedLeavesNoCheckpointToGoOnFrom) {
  const test::MemoryScope memory;
  int64_t begun = 0;
  std::unique_ptr<TemporaryFolder> folder;
  const auto before = [&] {
    folder = std::make_unique<TemporaryFolder>();
    for (const char* name : {"checkpoint-2/a", "checkpoint-4/a", "unet/config.json", "metrics.csv", "mine"}) {
      create_folders(parent_folder(*folder / name));
      write_bytes(*folder / name, name);
    }
  };
  const auto clear = [&] { remove_earlier_training(folder->path(), {"unet"}, "logs"); };
  const auto after = [&](int64_t call) {
    SCOPED_TRACE(call);
    const LogCapture log;
    finish_removing(folder->path(), {"unet"}, "logs");
    // It has not begun, or it is done.
    const StepList left = list_checkpoints(folder->path());
    EXPECT_EQ(left, left.empty() ? StepList{} : (StepList{2, 4}));
    EXPECT_EQ(file_exists(*folder / "metrics.csv"), !left.empty());
    EXPECT_FALSE(file_exists(*folder / "overwriting.json"));
    EXPECT_EQ(read_text_file(*folder / "mine"), "mine");
    begun += left.empty() ? 1 : 0;
  };
  const int64_t kills = test::kill_at_each_system_call(before, clear, after);
  if (kills == 0) GTEST_SKIP() << "a child process may not be traced here";
  EXPECT_GT(kills, 40);
  EXPECT_GT(begun, 20);

  before();
  write_bytes(*folder / "overwriting.json", "{}");
  expect_throws_with<FileError>([&] { finish_removing(folder->path(), {"unet"}, "logs"); },
                                "overwriting.json");
}

TEST(OlderCheckpoint, DoesNotObeyADamagedNote) {
  const TemporaryFolder folder;
  TrainingConfig config = branching_config(folder.path());
  train_until(config, 4);
  config.resume_from_checkpoint = "latest";
  for (const char* text : {"{}", "[]", R"({"version": 1, "after_step": 2, "folder": "../elsewhere"})",
                           R"({"version": 1, "after_step": "2", "folder": "abandoned-1"})", "x"}) {
    write_bytes(folder / "setting_aside.json", text);
    expect_throws_with<FileError>([&] { train_until(config, -1); }, "setting_aside.json");
  }
  EXPECT_EQ(list_checkpoints(folder.path()), (StepList{2, 4}));
}

TEST(OlderCheckpoint, TakesSnapshotsAndPreviewsOfLaterStepsAway) {
  const TemporaryFolder folder;
  TrainingConfig config = branching_config(folder.path());
  config.post_hoc_ema_sigma_rels = {0.1};
  config.post_hoc_ema_steps = 3;
  config.validation_steps = 3;
  const auto train = [&](int64_t stop) {
    Trainer trainer(TinyNet(0.2), DDPMScheduler(), config);
    trainer.on_preview([](const PreviewContext& at) { at.log_images("p", at::zeros({1, 1, 4, 4}), {}); });
    trainer.on_step([&](int64_t step) {
      if (step == stop) trainer.request_stop();
    });
    const LogCapture log;
    trainer.train(resumable_images());
  };
  train(-1);
  const std::vector<std::string> all{"power_ema-3-0.1.safetensors", "power_ema-6-0.1.safetensors",
                                     "power_ema-9-0.1.safetensors"};
  EXPECT_EQ(list_folder(folder / "power_ema/unet"), all);
  EXPECT_EQ(list_folder(folder / "previews"), (std::vector<std::string>{"p-3.png", "p-6.png", "p-9.png"}));

  // With other intervals, the old files would be mixed with the new ones.
  config.post_hoc_ema_steps = 7;
  config.validation_steps = 7;
  config.resume_from_checkpoint = "checkpoint-4";
  train(5);
  EXPECT_EQ(list_folder(folder / "power_ema/unet"), std::vector<std::string>{all[0]});
  EXPECT_EQ(list_folder(folder / "previews"), std::vector<std::string>{"p-3.png"});
  EXPECT_EQ(list_folder(folder / "abandoned-1/power_ema/unet"), (std::vector<std::string>{all[1], all[2]}));
  EXPECT_EQ(list_folder(folder / "abandoned-1/previews"), (std::vector<std::string>{"p-6.png", "p-9.png"}));

  // After a kill, a resumed training does not duplicate the files that it writes again.
  write_bytes(folder / "power_ema/unet/power_ema-6-0.1.safetensors", "of the killed process");
  config.resume_from_checkpoint = "latest";
  train(-1);
  EXPECT_EQ(list_folder(folder / "power_ema/unet"),
            (std::vector<std::string>{all[0], "power_ema-7-0.1.safetensors", all[2]}));
}

TEST(CheckpointFromElsewhere, IsSavedHereAtOnce) {
  const TemporaryFolder source;
  TrainingConfig config = branching_config(source.path());
  train_until(config, -1);
  const TemporaryFolder folder;
  config.output_dir = folder.path();
  config.resume_from_checkpoint = source / "checkpoint-4";
  train_and_die(config, 5);
  EXPECT_EQ(list_checkpoints(folder.path()), StepList{4});
  expect_same_checkpoint(folder / "checkpoint-4", source / "checkpoint-4");
  EXPECT_EQ(list_checkpoints(source.path()), (StepList{2, 4, 6, 8}));
  config.resume_from_checkpoint = "latest";
  EXPECT_EQ(first_trained_step(config), 5);
  expect_same_checkpoint(folder / "checkpoint-8", source / "checkpoint-8");

  // The files of two trainings are not mixed.
  config.resume_from_checkpoint = source / "checkpoint-2";
  expect_throws_with<ConfigError>([&] { train_until(config, -1); }, "of another training");
  config.overwrite_output_dir = true;
  train_and_die(config, 3);
  EXPECT_EQ(list_checkpoints(folder.path()), StepList{2});
}

TEST(OutputFolder, IsRefusedWhenItHoldsAFinishedTraining) {
  const TemporaryFolder folder;
  TrainingConfig config = test::quiet_config(folder.path());
  train_until(config, -1);
  ASSERT_TRUE(list_checkpoints(folder.path()).empty());
  const auto expect_refused = [&](const char* what) {
    expect_throws_with<ConfigError>([&] { train_until(config, -1); }, what);
    expect_throws_with<ConfigError>([&] { train_until(config, -1); }, "overwrite_output_dir");
  };
  expect_refused("a finished model in unet/");
  {
    const LogCapture log;  // there is no checkpoint to resume from
    config.resume_from_checkpoint = "latest";
    expect_refused("a finished model in unet/");
    config.resume_from_checkpoint.reset();
  }
  remove_folder(folder / "unet");
  write_bytes(folder / "model_index.json", "{}");
  expect_refused("model_index.json");
  remove_file(folder / "model_index.json");
  create_folders(folder / "power_ema/unet");
  write_bytes(folder / "power_ema/unet/power_ema-4-0.1.safetensors", "");
  expect_refused("power_ema/");
  remove_folder(folder / "power_ema");
  EXPECT_TRUE(train_until(config, -1).is_complete) << "logs alone are no result";
}

/// Trains with all options that write files.
void train_with_everything(const std::string& output_dir) {
  TrainingConfig config = branching_config(output_dir);
  config.post_hoc_ema_sigma_rels = {0.1};
  config.post_hoc_ema_steps = 3;
  config.validation_steps = 3;
  config.logging_dir = "events/first";
  Trainer trainer(test::seeded_net(), DDPMScheduler(), config,
                  DiffusionTaskOptions{.learned_log_variance = LogVarianceType::kTable});
  trainer.on_preview([](const PreviewContext& at) { at.log_images("p", at::zeros({1, 1, 4, 4}), {}); });
  trainer.train(resumable_images());
}

/// Returns the files in a folder, as relative paths.
std::vector<std::string> files_below(const std::string& root, const std::string& inner = "") {
  std::vector<std::string> files;
  for (const std::string& name : list_folder(join_path(root, inner))) {
    const std::string path = join_path(inner, name);
    if (!folder_exists(join_path(root, path))) {
      files.push_back(path);
      continue;
    }
    for (const std::string& file : files_below(root, path)) files.push_back(file);
  }
  return files;
}

TEST(OutputFolder, IsClearedOfATrainingAndOfNothingElse) {
  const TemporaryFolder folder;
  train_with_everything(folder.path());
  // Adds an abandoned branch.
  create_folders(folder / "abandoned-1");
  rename_path(folder / "checkpoint-8", folder / "abandoned-1/checkpoint-8");
  write_bytes(folder / "abandoned-1/metrics.csv", "");
  const std::vector<std::string> written = files_below(folder.path());
  EXPECT_GT(written.size(), 40U);

  std::vector<std::string> own{"abandoned-1/notes.txt",
                               "abandoned-x/metrics.csv",
                               "checkpoint-2b/file",
                               "events/first/notes.txt",
                               "notes.txt",
                               "power_ema/notes.txt",
                               "power_ema/unet/notes.txt",
                               "previews/drawing.png",
                               "previews/notes-1.txt",
                               "scheduler/notes.txt",
                               "unet/notes.txt",
                               "vae/config.json"};
  for (const std::string& name : own) {
    create_folders(parent_folder(folder / name));
    write_bytes(folder / name, "mine");
  }
  remove_earlier_training(folder.path(), {"unet"}, "logs");
  EXPECT_EQ(files_below(folder.path()), own);
  EXPECT_FALSE(folder_exists(folder / "log_variance"));

  TrainingConfig config = test::quiet_config(folder.path());
  config.tensorboard = false;
  train_until(config, -1);
}

TEST(OutputFolder, OfAnOverwrittenTrainingIsThatOfTheNewOneAlone) {
  const TemporaryFolder folder;
  const TemporaryFolder fresh;
  train_with_everything(folder.path());
  for (const std::string& path : {folder.path(), fresh.path()}) {
    TrainingConfig config = test::quiet_config(path);
    config.overwrite_output_dir = true;
    config.tensorboard = false;
    train_until(config, -1);
  }
  EXPECT_EQ(files_below(folder.path()), files_below(fresh.path()));
  EXPECT_EQ(read_text_file(folder / "unet/diffusion_pytorch_model.safetensors"),
            read_text_file(fresh / "unet/diffusion_pytorch_model.safetensors"));
}

TEST(OutputFolder, MayBeTheFolderOfTheLogs) {
  const TemporaryFolder folder;
  TrainingConfig config = test::quiet_config(folder.path());
  config.logging_dir = ".";
  train_until(config, -1);
  config.overwrite_output_dir = true;
  train_until(config, -1);
  int events = 0;
  for (const std::string& name : list_folder(folder.path())) events += name.starts_with("events.") ? 1 : 0;
  EXPECT_EQ(events, 1);
}

}  // namespace
}  // namespace diffusers

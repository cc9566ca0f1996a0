// Checkpoints that are written in the background while the training continues.

#include "training/checkpoint/checkpoint_writer.h"

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include <diffusers/core/logging.h>
#include <diffusers/io/model_file.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "io/manifest.h"
#include "support/golden.h"
#include "training/checkpoint/checkpoint.h"
#include "training/tiny_model.h"

namespace diffusers {
namespace {

using test::expect_throws_with;
using test::TemporaryFolder;
using test::TinyImages;
using test::TinyNet;

TrainingConfig short_config(const std::string& output_dir) {
  TrainingConfig config;
  config.output_dir = output_dir;
  config.seed = 5;
  config.train_batch_size = 3;
  config.max_train_steps = 6;
  config.learning_rate = 1e-2;
  config.lr_warmup_steps = 2;
  config.use_ema = true;
  config.checkpointing_steps = 2;
  config.logging_steps = 3;
  config.progress_bar = false;
  return config;
}

/// A denoiser whose snapshots call a function with the step at which they were made, before they are written.
class WatchedModel : public SavedHolder<TinyNet> {
 public:
  WatchedModel(TinyNet net, std::function<void(int64_t)> before_write, const std::atomic<int64_t>& step)
      : SavedHolder(std::move(net)), before_write_(std::move(before_write)), step_(step) {}
  SnapshotWriter snapshot() override {
    return [write = SavedHolder::snapshot(), before = before_write_,
            made_at = step_.load()](const std::filesystem::path& folder) {
      before(made_at);
      write(folder);
    };
  }

 private:
  std::function<void(int64_t)> before_write_;
  const std::atomic<int64_t>& step_;
};

void train(
    const TrainingConfig& config, const std::function<void(int64_t)>& before_write = [](int64_t) {},
    const std::function<void(int64_t)>& on_step = [](int64_t) {}) {
  manual_seed(1);
  std::atomic<int64_t> last_step = 0;
  const TinyNet net(0.2);
  const TrainableDenoiser model(std::make_shared<WatchedModel>(net, before_write, last_step),
                                make_denoiser(net), denoiser_info(net));
  Trainer trainer(std::make_shared<DiffusionTask>(model, DDPMScheduler()), config);
  trainer.on_step([&](int64_t step) {
    last_step = step;
    on_step(step);
  });
  trainer.train(TinyImages(18));
}

/// Returns every file except those that record the training options.
void expect_same_files(const std::string& actual, const std::string& expected,
                       const std::string& inner = "") {
  for (const std::string& name : list_folder(join_path(expected, inner))) {
    const std::string path = join_path(inner, name);
    if (folder_exists(join_path(expected, path))) {
      expect_same_files(actual, expected, path);
    } else if (name != "trainer_state.json" && name != "manifest.json") {
      EXPECT_EQ(read_text_file(join_path(actual, path)), read_text_file(join_path(expected, path))) << path;
    }
  }
  EXPECT_EQ(list_folder(join_path(actual, inner)), list_folder(join_path(expected, inner)));
}

TEST(BackgroundCheckpoints, HoldWhatTheTrainingHadWhenTheyBegan) {
  const TemporaryFolder waiting;
  TrainingConfig config = short_config(waiting.path());
  config.background_checkpoints = false;
  train(config);

  // Writing is so slow that the training reaches the next checkpoint before the weights are written.
  const TemporaryFolder folder;
  std::atomic<int64_t> step = 0;
  std::atomic<int> ahead = 0;
  const auto wait_for_next_checkpoint = [&](int64_t made_at) {
    if (made_at == config.max_train_steps) return;
    for (int i = 0; i < 60'000 && step < made_at + config.checkpointing_steps; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (step >= made_at + config.checkpointing_steps) ++ahead;
  };
  train(short_config(folder.path()), wait_for_next_checkpoint, [&](int64_t done) { step = done; });
  EXPECT_EQ(ahead, 4) << "of the weights and averages of two checkpoints";
  for (const int64_t saved : {2, 4, 6})
    expect_same_files(checkpoint_path(folder.path(), saved), checkpoint_path(waiting.path(), saved));
}

TEST(BackgroundCheckpoints, AreOneAtATimeAndDoneInTheEnd) {
  const TemporaryFolder folder;
  std::atomic<int> now = 0;
  std::atomic<int> most = 0;
  TrainingConfig config = short_config(folder.path());
  config.checkpointing_steps = 1;
  config.use_ema = false;
  train(config, [&](int64_t) {
    const int others = now++;
    if (others + 1 > most) most = others + 1;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    --now;
  });
  EXPECT_EQ(most, 1);
  EXPECT_EQ(list_checkpoints(folder.path()), (std::vector<int64_t>{1, 2, 3, 4, 5, 6}));
  for (const int64_t step : list_checkpoints(folder.path()))
    EXPECT_NO_THROW(verify_manifest(checkpoint_path(folder.path(), step)));
}

TEST(BackgroundCheckpoints, FailInTheTrainingThread) {
  struct Case {
    const char* where;
    int64_t checkpointing_steps, logging_steps, expected_last_step;
  };
  // The second checkpoint fails, and the next checkpoint or the end of the training throws its error.
  for (const Case& c : {Case{"the next checkpoint", 2, 100, 6}, Case{"the end", 3, 100, 6}}) {
    const TemporaryFolder folder;
    TrainingConfig config = short_config(folder.path());
    config.checkpointing_steps = c.checkpointing_steps;
    config.logging_steps = c.logging_steps;
    config.use_ema = false;
    std::atomic<int> writes = 0;
    int64_t last_step = 0;
    expect_throws_with<FileError>(
        [&] {
          train(
              config,
              [&](int64_t) {
                if (++writes == 2) throw FileError("the disk has gone");
              },
              [&](int64_t step) { last_step = step; });
        },
        "the disk has gone");
    EXPECT_EQ(last_step, c.expected_last_step) << c.where;
    EXPECT_EQ(list_checkpoints(folder.path()), std::vector<int64_t>{c.checkpointing_steps}) << c.where;
    EXPECT_NO_THROW(verify_manifest(checkpoint_path(folder.path(), c.checkpointing_steps)));
    EXPECT_FALSE(folder_exists(folder / "unet")) << c.where;
  }
}

TEST(BackgroundCheckpoints, AreFinishedWhenTheTrainingFails) {
  const TemporaryFolder folder;
  expect_throws_with<std::runtime_error>(
      [&] {
        train(
            short_config(folder.path()),
            [](int64_t) { std::this_thread::sleep_for(std::chrono::milliseconds(20)); },
            [](int64_t step) {
              if (step == 3) throw std::runtime_error("a callback fails");
            });
      },
      "a callback fails");
  EXPECT_EQ(list_checkpoints(folder.path()), std::vector<int64_t>{2});
  EXPECT_NO_THROW(verify_manifest(folder / "checkpoint-2"));
}

CheckpointContent failing_content(const std::string& folder) {
  CheckpointContent content;
  content.output_dir = folder;
  content.step = 1;
  content.models.emplace_back("unet", [](const std::string&) { throw FileError("the disk has gone"); });
  return content;
}

TEST(CheckpointWriter, ReportsAnErrorOnceToWhoeverAsks) {
  const TemporaryFolder folder;
  CheckpointWriter writer;
  EXPECT_NO_THROW(writer.check());
  EXPECT_NO_THROW(writer.wait());
  writer.start(failing_content(folder.path()));
  expect_throws_with<FileError>([&] { writer.wait(); }, "the disk has gone");
  EXPECT_NO_THROW(writer.wait());

  writer.start(failing_content(folder.path()));
  expect_throws_with<FileError>([&] { writer.start(failing_content(folder.path())); }, "the disk has gone");

  writer.start(failing_content(folder.path()));
  const auto check_until_done = [&] {
    for (int i = 0; i < 5000; ++i) {
      writer.check();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  };
  expect_throws_with<FileError>(check_until_done, "the disk has gone");
  EXPECT_TRUE(list_folder(folder.path()).empty());

  std::string log;
  const LogSink previous = set_log_sink([&](LogLevel, std::string_view message) { log += message; });
  {
    CheckpointWriter forgotten;
    forgotten.start(failing_content(folder.path()));
  }
  set_log_sink(previous);
  EXPECT_NE(log.find("the disk has gone"), std::string::npos);
}

TEST(CheckpointWriter, DoesNotMissALogThatSomebodyRemoved) {
  const TemporaryFolder folder;
  CheckpointContent content;
  content.output_dir = folder.path();
  content.step = 1;
  content.texts["trainer_state.json"] = "{}";
  content.logs = {folder / "metrics.csv"};
  EXPECT_NO_THROW(write_checkpoint(content));
  EXPECT_NO_THROW(verify_manifest(folder / "checkpoint-1"));
}

/// The snapshot of a model is written after its weights have changed.
void expect_snapshot_is_save(SavedModule& model) {
  const TemporaryFolder saved;
  model.save(saved.path());
  const SnapshotWriter write = model.snapshot();
  ASSERT_TRUE(write);
  const at::NoGradGuard no_grad;
  for (Tensor& parameter : model.module().parameters()) parameter.zero_();
  const TemporaryFolder written;
  write(written.path());
  expect_same_files(written.path(), saved.path());
}

/// A model whose files have the names of another library.
struct RenamedNetImpl : test::TinyNetImpl {
  struct Format {
    std::string basename = "model";
    std::string (*name_in_file)(const std::string&) = [](const std::string& name) { return "net." + name; };
  };
  static Format weights_format() { return {}; }
  std::string config_json() const { return "{}\n"; }
  void save_pretrained(const std::string& folder) const {
    TensorMap tensors;
    for (const auto& item : named_parameters()) tensors.insert("net." + item.key(), item.value());
    save_weights(tensors, folder, "model");
    write_file(config_json(), join_path(folder, "config.json"));
  }
};
TORCH_MODULE(RenamedNet);

TEST(Snapshot, WritesTheBytesOfSavePretrained) {
  expect_snapshot_is_save(*make_saved_module(TinyNet()));
  expect_snapshot_is_save(*make_saved_module(RenamedNet()));
  expect_snapshot_is_save(
      *make_saved_module(UNet2DModel({.sample_size = 8,
                                      .in_channels = 1,
                                      .out_channels = 1,
                                      .down_block_types = {"DownBlock2D", "AttnDownBlock2D"},
                                      .up_block_types = {"AttnUpBlock2D", "UpBlock2D"},
                                      .block_out_channels = {8, 16},
                                      .layers_per_block = 1,
                                      .norm_num_groups = 4})));
}

/// A model with its own way of saving.
struct OwnFilesNetImpl : test::TinyNetImpl {
  void save_pretrained(const std::string& folder) {
    save_weights(TensorMap(named_parameters()), folder);
    write_file("a file of its own", join_path(folder, "words.txt"));
  }
};
TORCH_MODULE(OwnFilesNet);

TEST(Snapshot, IsNotNeededForACheckpoint) {
  EXPECT_FALSE(make_saved_module(OwnFilesNet())->snapshot());
  const TemporaryFolder folder;
  Trainer(OwnFilesNet(), DDPMScheduler(), short_config(folder.path())).train(TinyImages(18));
  for (const char* name : {"unet", "unet_ema"})
    EXPECT_EQ(read_text_file(join_path(folder / "checkpoint-4", std::string(name) + "/words.txt")),
              "a file of its own");
  EXPECT_NE(read_text_file(folder / "checkpoint-4/unet/diffusion_pytorch_model.safetensors"),
            read_text_file(folder / "checkpoint-4/unet_ema/diffusion_pytorch_model.safetensors"));
}

}  // namespace
}  // namespace diffusers

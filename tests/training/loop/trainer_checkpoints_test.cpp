// The checkpoints that a training leaves in its output folder.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <diffusers/training/trainer.h>

#include <gtest/gtest.h>

#include "core/json.h"
#include "io/folder_lock.h"
#include "io/manifest.h"
#include "support/golden.h"
#include "training/checkpoint/checkpoint.h"
#include "training/quick_training.h"
#include "training/resumable_training.h"

namespace diffusers {
namespace {

using test::expect_throws_with;
using test::resumable_config;
using test::TemporaryFolder;
using test::train_until;

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

}  // namespace
}  // namespace diffusers

#include "training/checkpoint/checkpoint.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "io/manifest.h"
#include "io/staged_folder.h"
#include "training/quick_training.h"
#include "training/resumable_training.h"

namespace diffusers {
namespace {

using test::LogCapture;
using test::resumable_config;
using test::TemporaryFolder;
using test::train_until;
using test::write_bytes;

TEST(Checkpoints, AreNamedByTheirStep) {
  EXPECT_EQ(checkpoint_path("out", 12), "out/checkpoint-12");
  EXPECT_EQ(checkpoint_step("checkpoint-12"), 12);
  for (const char* name : {"checkpoint-", "checkpoint-012", "checkpoint--1", "checkpoint-1.partial",
                           "checkpoint-99999999999999999999", "checkpoint", "unet"})
    EXPECT_EQ(checkpoint_step(name), -1) << name;
}

TEST(Checkpoints, AreListedByNumberAndTheOldestAreRemoved) {
  const TemporaryFolder folder;
  EXPECT_TRUE(list_checkpoints(folder / "missing").empty());
  for (const char* name : {"checkpoint-2", "checkpoint-10", "checkpoint-9", "checkpoint-30", "unet"})
    create_folders(folder / name);
  write_bytes(folder / "checkpoint-5", "a file");
  EXPECT_EQ(list_checkpoints(folder.path()), (std::vector<int64_t>{2, 9, 10, 30}));
  // checkpoint-30 is later than the current step, so it belongs to another training.
  keep_newest_checkpoints(folder.path(), 2, 10);
  EXPECT_EQ(list_checkpoints(folder.path()), (std::vector<int64_t>{9, 10, 30}));
  remove_checkpoint(folder.path(), 30);
  EXPECT_EQ(list_folder(folder.path()),
            (std::vector<std::string>{"checkpoint-10", "checkpoint-5", "checkpoint-9", "unet"}));
}

TEST(UnfinishedFolders, GiveBackWhatWasAboutToBeReplaced) {
  // The state after a kill between the two renames. Earlier versions used the other name.
  for (const char* suffix : {".replaced", ".removed"}) {
    const TemporaryFolder folder;
    TrainingConfig config = resumable_config(folder.path());
    config.checkpointing_steps = 3;
    train_until(config, -1);
    const auto hide = [&](const std::string& name) {
      rename_path(folder / name, folder / (name + suffix));
      create_folders(folder / (name + ".partial"));
      write_bytes(folder / (name + ".partial/file"), "");
    };
    hide("checkpoint-9");
    hide("unet");
    const std::string weights =
        read_text_file(join_path(folder / (std::string("unet") + suffix), "config.json"));
    config.resume_from_checkpoint = "latest";
    const LogCapture log;
    remove_unfinished_folders(folder.path());
    EXPECT_EQ(read_text_file(folder / "unet/config.json"), weights);
    EXPECT_NO_THROW(verify_manifest(folder / "checkpoint-9"));
    EXPECT_TRUE(log.contains("about to be replaced"));
    int64_t steps = 0;
    Trainer trainer(test::TinyNet(0.2), DDPMScheduler(), config);
    trainer.on_step([&](int64_t) { ++steps; });
    EXPECT_TRUE(trainer.train(test::resumable_images()).is_complete);
    EXPECT_EQ(steps, 0) << "checkpoint-9 was lost";
    for (const std::string& name : list_folder(folder.path()))
      EXPECT_EQ(name.find('.' + std::string("partial")), std::string::npos) << name;
  }
}

}  // namespace
}  // namespace diffusers

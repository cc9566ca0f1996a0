// Folders that take the place of others.

#include "training/checkpoint/checkpoint.h"

#include <cerrno>
#include <memory>
#include <string>
#include <vector>

#include <diffusers/core/logging.h>

#include <gtest/gtest.h>

#include "support/killed_process.h"
#include "training/quick_training.h"
#include "training/resumable_training.h"

namespace diffusers {
namespace {

using test::CapturedLog;
using test::resumable_config;
using test::TemporaryFolder;
using test::train_until;
using test::write_bytes;

void publish_over(const std::string& path, const std::string& text) {
  StagedFolder folder(path);
  write_file_atomically(join_path(folder.stage(), "file"), text);
  folder.publish();
}

TEST(StagedFolder, IsTheOldOrTheNewFolderAfterAKillAtAnySystemCall) {
  const test::MemoryScope memory;
  // 0: the file system can exchange two folders.
  for (const int error : {0, EINVAL, ENOSYS}) {
    SCOPED_TRACE(error);
    std::unique_ptr<TemporaryFolder> folder;
    int64_t old_ones = 0;
    int64_t new_ones = 0;
    int64_t restored = 0;
    const int64_t kills = test::kill_at_each_system_call(
        [&] {
          folder = std::make_unique<TemporaryFolder>();
          publish_over(*folder / "unet", "old");
        },
        [&] {
          if (error != 0) test::deny_rename_exchange(error);
          publish_over(*folder / "unet", "new");
        },
        [&](int64_t call) {
          SCOPED_TRACE(call);
          const CapturedLog log;
          restored += folder_exists(*folder / "unet") ? 0 : 1;
          remove_unfinished_folders(folder->path());
          EXPECT_EQ(list_folder(folder->path()), std::vector<std::string>{"unet"});
          const std::string text = read_text_file(*folder / "unet/file");
          ++(text == "new" ? new_ones : old_ones);
          EXPECT_TRUE(text == "new" || text == "old") << text;
        });
    if (kills == 0) GTEST_SKIP() << "a child process may not be traced here";
    EXPECT_GT(old_ones, 10);
    EXPECT_GT(new_ones, 2);
    EXPECT_EQ(restored > 0, error != 0);
  }
}

TEST(StagedFolder, IsTheOldOrTheNewFolderWhenAnySystemCallFails) {
  const test::MemoryScope memory;
  for (const bool can_exchange : {true, false}) {
    int64_t failures = 0;
    for (int64_t call = 1;; ++call) {
      SCOPED_TRACE(call);
      const TemporaryFolder folder;
      publish_over(folder / "unet", "old");
      bool is_injected = false;
      const test::ChildEnd end = test::failing_system_call(call, EIO, is_injected, [&] {
        set_log_sink([](LogLevel, std::string_view) {});
        if (!can_exchange) test::deny_rename_exchange(EINVAL);
        try {
          publish_over(folder / "unet", "new");
        } catch (const FileError&) {
        }
      });
      if (end == test::ChildEnd::kNotTraced) GTEST_SKIP() << "a child process may not be traced here";
      ASSERT_EQ(end, test::ChildEnd::kEnded);
      if (!is_injected) break;
      ++failures;
      // Without another start: one failing call can be undone.
      const std::string text = read_text_file(folder / "unet/file");
      EXPECT_TRUE(text == "new" || text == "old") << text;
    }
    EXPECT_GT(failures, 15);
  }
}

TEST(UnfinishedFolders, GiveBackWhatWasAboutToBeReplaced) {
  // As a process leaves it that is killed between the two renames; earlier versions had the other name.
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
    const CapturedLog log;
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

TEST(UnfinishedFolders, AreRemovedWhereTheNameIsTaken) {
  const TemporaryFolder folder;
  for (const char* name : {"a", "a.replaced", "b", "b.removed", "c.removed", "d.partial", "e", "e.partial"})
    create_folders(folder / name);
  write_bytes(folder / "f.replaced", "a file");
  remove_unfinished_folders(folder.path());
  EXPECT_EQ(list_folder(folder.path()), (std::vector<std::string>{"a", "b", "e", "f.replaced"}));
}

}  // namespace
}  // namespace diffusers

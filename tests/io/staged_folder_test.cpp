// Folders that are published, replaced and removed atomically.

#include "io/staged_folder.h"

#include <cerrno>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/logging.h>
#include <diffusers/io/files.h>

#include <gtest/gtest.h>

#include "io/manifest.h"
#include "support/golden.h"
#include "support/killed_process.h"
#include "support/log_capture.h"

namespace diffusers {
namespace {

using test::expect_throws_with;
using test::LogCapture;
using test::TemporaryFolder;
using test::write_bytes;

void publish_over(const std::string& path, const std::string& text) {
  StagedFolder folder(path);
  write_file(text, join_path(folder.stage(), "file"));
  folder.publish();
}

TEST(StagedFolder, IsTheOldOrTheNewFolderAfterAKillAtAnySystemCall) {
  const test::MemoryScope memory;
  // 0 means that the file system can exchange two folders.
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
          const LogCapture log;
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
      // The same process can undo a single failing call.
      const std::string text = read_text_file(folder / "unet/file");
      EXPECT_TRUE(text == "new" || text == "old") << text;
    }
    EXPECT_GT(failures, 15);
  }
}

TEST(StagedFolder, IsRemovedUnlessItIsPublished) {
  const TemporaryFolder folder;
  create_folders(folder / "unet.partial");
  write_bytes(folder / "unet.partial/left_by_a_killed_process", "");
  {
    const StagedFolder staged(folder / "unet");
    EXPECT_EQ(staged.stage(), folder / "unet.partial");
    EXPECT_TRUE(list_folder(staged.stage()).empty());
  }
  EXPECT_TRUE(list_folder(folder.path()).empty());
}

TEST(StagedFolder, IsPublishedWithAManifestOfWhatWasWritten) {
  const TemporaryFolder folder;
  StagedFolder staged(folder / "unet");
  create_folders(join_path(staged.stage(), "inner"));
  write_bytes(join_path(staged.stage(), "inner/file"), "abc");
  staged.publish_with_manifest();
  EXPECT_EQ(list_folder(folder.path()), std::vector<std::string>{"unet"});
  EXPECT_EQ(list_folder(folder / "unet"), (std::vector<std::string>{"inner", "manifest.json"}));
  EXPECT_NO_THROW(verify_manifest(folder / "unet"));
}

TEST(RemoveFolderAtOnce, LeavesNothingAndRefusesAMissingFolder) {
  const TemporaryFolder folder;
  create_folders(folder / "a/inner");
  create_folders(folder / "a.removed");
  remove_folder_at_once(folder / "a");
  EXPECT_TRUE(list_folder(folder.path()).empty());
  expect_throws_with<FileError>([&] { remove_folder_at_once(folder / "a"); }, "cannot rename");
}

TEST(TemporaryFiles, AreRemovedFromTheFolderAndTheFoldersInIt) {
  const TemporaryFolder folder;
  create_folders(folder / "unet");
  create_folders(folder / "unet/deeper");
  const std::string temporary = ".config.json.123-4.tmp";
  for (const char* name : {"", "unet/", "unet/deeper/"}) write_bytes(folder / (name + temporary), "");
  write_bytes(folder / "notes.tmp", "");
  remove_temporary_files(folder.path());
  EXPECT_EQ(list_folder(folder.path()), (std::vector<std::string>{"notes.tmp", "unet"}));
  EXPECT_EQ(list_folder(folder / "unet"), std::vector<std::string>{"deeper"});
  EXPECT_EQ(list_folder(folder / "unet/deeper"), std::vector<std::string>{temporary});
}

TEST(UnfinishedFolders, GetTheirNameBackWhereTheyWereAboutToBeReplaced) {
  // The state after a kill between the two renames. Earlier versions used the other suffix.
  for (const char* suffix : {".replaced", ".removed"}) {
    const TemporaryFolder folder;
    create_folders(folder / (std::string("unet") + suffix));
    write_bytes(folder / (std::string("unet") + suffix + "/file"), "old");
    create_folders(folder / "unet.partial");
    const LogCapture log;
    remove_unfinished_folders(folder.path());
    EXPECT_EQ(list_folder(folder.path()), std::vector<std::string>{"unet"});
    EXPECT_EQ(read_text_file(folder / "unet/file"), "old");
    ASSERT_EQ(log.messages().size(), 1U);
    EXPECT_NE(log.messages()[0].find("about to be replaced"), std::string::npos);
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

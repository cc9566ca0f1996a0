#include "io/folder_lock.h"

#include <optional>

#include <diffusers/core/error.h>

#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_throws_with;
using test::TemporaryFolder;

TEST(FolderLock, IsExclusiveUntilItEnds) {
  const TemporaryFolder folder;
  std::optional<FolderLock> first(std::in_place, folder.path(), "output_dir", "training");
  expect_throws_with<FileError>([&] { const FolderLock second(folder.path(), "output_dir", "training"); },
                                "and another training writes there");
  first.reset();
  EXPECT_NO_THROW(FolderLock(folder.path(), "output_dir", "training"));
}

TEST(FolderLock, RefusesAMissingFolder) {
  const TemporaryFolder folder;
  expect_throws_with<FileError>([&] { const FolderLock lock(folder / "missing", "output_dir", "training"); },
                                "cannot open the folder");
}

}  // namespace
}  // namespace diffusers

#include <csignal>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/io/files.h>

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/system_calls.h"
#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_throws_with;
using test::TemporaryFolder;

TEST(Files, TextRoundTripsAndReplacesInOneStep) {
  const TemporaryFolder folder;
  const std::string path = folder / "a.txt";
  write_file("first", path);
  EXPECT_EQ(read_text_file(path), "first");
  const std::string large(3 << 20, 'x');
  write_file(large, path);
  EXPECT_EQ(read_text_file(path), large);
  EXPECT_EQ(list_folder(folder.path()), std::vector<std::string>{"a.txt"});
}

TEST(Files, ModeFollowsTheUmask) {
  const TemporaryFolder folder;
  const mode_t before = ::umask(027);
  write_file("x", folder / "a");
  ::umask(before);
  struct stat status {};
  ASSERT_EQ(::stat((folder / "a").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0640U);
}

TEST(Files, LargeFilesAreRefusedUnread) {
  const TemporaryFolder folder;
  write_file("12345", folder / "a");
  EXPECT_EQ(read_text_file(folder / "a", 5), "12345");
  expect_throws_with<FileError>([&] { read_text_file(folder / "a", 4); }, "5 bytes, at most 4");
}

TEST(Files, AFailedWriteLeavesTheOldFileAndNoLitter) {
  const TemporaryFolder folder;
  const std::string path = folder / "a";
  write_file("old", path);
  // If a limit on the size of files is set, write() fails as on a full disk.
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  auto* const handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{4096, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  expect_throws_with<FileError>([&] { write_file(std::string(1 << 20, 'x'), path); }, "File too large");
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(read_text_file(path), "old");
  EXPECT_EQ(list_folder(folder.path()), std::vector<std::string>{"a"});
  write_file("new", path);
  EXPECT_EQ(read_text_file(path), "new");
}

TEST(Files, PlacesThatCannotBeWrittenAreNamed) {
  const TemporaryFolder folder;
  const std::string missing = folder / "no/a";
  expect_throws_with<FileError>([&] { write_file("x", missing); }, missing + ": cannot create: No such file");
  expect_throws_with<FileError>([&] { write_file("x", folder.path()); }, "it is a folder");
  expect_throws_with<FileError>([&] { write_file("x", folder.path() + "/"); }, "not the name of a file");
  expect_throws_with<FileError>([&] { write_file("x", ""); }, "empty");
  write_file("x", folder / "file");
  expect_throws_with<FileError>([&] { create_folders(folder / "file/inner"); }, "cannot create folder");
  expect_throws_with<FileError>([&] { list_folder(folder / "none"); }, "No such file");
}

TEST(Files, FoldersAreCreatedAndRemovedWithAllTheyHold) {
  const TemporaryFolder folder;
  create_folders(folder / "a/b//c/");
  create_folders(folder / "a/b/c");
  write_file("x", folder / "a/b/c/file");
  write_file("x", folder / "kept");
  ASSERT_EQ(::symlink((folder / "kept").c_str(), (folder / "a/link").c_str()), 0);
  ASSERT_EQ(::symlink(folder.path().c_str(), (folder / "a/b/up").c_str()), 0);
  remove_folder(folder / "a");
  EXPECT_FALSE(folder_exists(folder / "a"));
  EXPECT_EQ(read_text_file(folder / "kept"), "x");
  EXPECT_NO_THROW(remove_folder(folder / "a"));
  expect_throws_with<FileError>([&] { remove_folder(folder / "kept"); }, "cannot remove folder");
  remove_file(folder / "kept");
  EXPECT_NO_THROW(remove_file(folder / "kept"));
  EXPECT_TRUE(list_folder(folder.path()).empty());
}

TEST(Files, RenameReplaces) {
  const TemporaryFolder folder;
  write_file("1", folder / "a");
  write_file("2", folder / "b");
  rename_path(folder / "a", folder / "b");
  EXPECT_EQ(read_text_file(folder / "b"), "1");
  expect_throws_with<FileError>([&] { rename_path(folder / "a", folder / "b"); }, "cannot rename");
}

TEST(Files, AreSyncedOrNamed) {
  const TemporaryFolder folder;
  append_to_file(folder / "log", "a line\n");
  EXPECT_NO_THROW(sync_file(folder / "log"));
  EXPECT_EQ(read_text_file(folder / "log"), "a line\n");
  expect_throws_with<FileError>([&] { sync_file(folder / "missing"); }, "missing");
}

TEST(Files, PathsAreTakenApart) {
  EXPECT_EQ(join_path("a", "b"), "a/b");
  EXPECT_EQ(join_path("a/", "b"), "a/b");
  EXPECT_EQ(join_path("", "b"), "b");
  EXPECT_EQ(base_name("a/b"), "b");
  EXPECT_EQ(base_name("b"), "b");
  EXPECT_EQ(parent_folder("a/b"), "a");
  EXPECT_EQ(parent_folder("/b"), "/");
  EXPECT_EQ(parent_folder("b"), ".");
}

TEST(Files, PathsMayBeStandardPathsAndHoldAnyText) {
  const TemporaryFolder folder;
  const std::filesystem::path path = std::filesystem::path(folder.path()) / "\xc3\xa9 \xe4\xbd\xa0" / "a b";
  create_folders(path.parent_path());
  write_file("x", path);
  EXPECT_TRUE(file_exists(path));
  EXPECT_EQ(read_text_file(path), "x");
  EXPECT_EQ(list_folder(path.parent_path()), std::vector<std::string>{"a b"});
  EXPECT_EQ(join_path(path.parent_path(), base_name(path)), path.native());
  // The name of the temporary file contains a part of the name, which must not end inside a code point.
  std::string name = "x";
  for (int i = 0; i < 120; ++i) name += "\xc3\xa9";
  write_file("x", folder / name);
  EXPECT_EQ(read_text_file(folder / name), "x");
}

TEST(Files, PathsThatNameNothingAreRefused) {
  const TemporaryFolder folder;
  const std::string cut = folder / "a";
  write_file("x", cut);
  const std::vector<std::pair<std::string, const char*>> bad_paths{
      {"", "empty"},
      {cut + std::string("\0.txt", 5), "contains a NUL byte"},  // the system would use "a"
      {folder / "a\xff", "is not UTF-8"}};
  for (const auto& [bad, message] : bad_paths) {
    const std::filesystem::path path = bad;
    expect_throws_with<FileError>([&] { read_text_file(path); }, message);
    expect_throws_with<FileError>([&] { write_file("y", path); }, message);
    expect_throws_with<FileError>([&] { create_folders(path); }, message);
    expect_throws_with<FileError>([&] { remove_folder(path); }, message);
    expect_throws_with<FileError>([&] { remove_file(path); }, message);
    expect_throws_with<FileError>([&] { sync_folder(path); }, message);
    expect_throws_with<FileError>([&] { list_folder(path); }, message);
    expect_throws_with<FileError>([&] { rename_path(path, folder / "b"); }, message);
    expect_throws_with<FileError>([&] { rename_path(cut, path); }, message);
    EXPECT_FALSE(file_exists(path));
    EXPECT_FALSE(folder_exists(path));
  }
  EXPECT_EQ(list_folder(folder.path()), std::vector<std::string>{"a"});
  EXPECT_EQ(read_text_file(cut), "x");
}

TEST(Files, OnlyPlainBasenamesPass) {
  for (const std::string name : {"a", "a.b-c", "...", "a b", ".hidden"})
    EXPECT_TRUE(is_plain_basename(name)) << name;
  for (const std::string& name : {std::string(), std::string("."), std::string(".."), std::string("a/b"),
                                  std::string("/a"), std::string("..\\a"), std::string("a\0", 2)})
    expect_throws_with<FileError>([&] { require_plain_basename(name, "the shard"); },
                                  "is not a plain file name");
}

}  // namespace
}  // namespace diffusers

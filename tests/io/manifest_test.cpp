#include "io/manifest.h"

#include <string>

#include <diffusers/core/error.h>
#include <diffusers/io/files.h>

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/json.h"
#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_throws_with;
using test::TemporaryFolder;
using test::write_bytes;

/// A folder with two files and their manifest.
void make_folder_with_manifest(const TemporaryFolder& folder) {
  create_folders(folder / "inner");
  write_bytes(folder / "a", "abc");
  write_bytes(folder / "inner/b", "");
  write_manifest(folder.path());
}

TEST(Manifest, HoldsTheSizeAndTheHashOfEachFile) {
  const TemporaryFolder folder;
  make_folder_with_manifest(folder);
  const Json manifest = parse_json(read_text_file(folder / "manifest.json"), "manifest.json");
  EXPECT_EQ(manifest.at("version"), 1);
  EXPECT_EQ(manifest.at("files").size(), 2U);
  EXPECT_EQ(manifest.at("files").at("a").at("size"), 3);
  EXPECT_EQ(manifest.at("files").at("a").at("sha256"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(manifest.at("files").at("inner/b").at("size"), 0);
  EXPECT_NO_THROW(verify_manifest(folder.path()));
}

TEST(Manifest, ShowsEveryKindOfDamage) {
  const auto expect_damage = [](auto damage, const char* message) {
    const TemporaryFolder folder;
    make_folder_with_manifest(folder);
    damage(folder);
    expect_throws_with<FileError>([&] { verify_manifest(folder.path()); }, message);
  };
  expect_damage([](const auto& f) { write_bytes(f / "a", "abd"); }, "SHA-256");
  expect_damage([](const auto& f) { write_bytes(f / "a", "ab"); }, "2 bytes, its manifest says 3");
  expect_damage([](const auto& f) { remove_file(f / "inner/b"); }, "cannot open");
  expect_damage([](const auto& f) { remove_file(f / "manifest.json"); }, "manifest.json");
  expect_damage(
      [](const auto& f) {
        const std::string text = read_text_file(f / "manifest.json");
        write_bytes(f / "manifest.json", text.substr(0, text.size() - 1));
      },
      "cut short");
  expect_damage([](const auto& f) { write_bytes(f / "manifest.json", "{}\n"); }, "not a manifest");
  expect_damage(
      [](const auto& f) { write_bytes(f / "manifest.json", "{\"version\": 1, \"files\": {\"a\": {}}}\n"); },
      "damaged");
  expect_damage(
      [](const auto& f) {
        write_bytes(f / "manifest.json", "{\"version\": 1, \"files\": {\"../a\": {}}}\n");
      },
      "outside of its folder");
}

TEST(Manifest, RefusesLinksAndOtherThingsThanFiles) {
  const TemporaryFolder outside;
  write_bytes(outside / "a", "abc");
  const TemporaryFolder folder;
  make_folder_with_manifest(folder);
  remove_file(folder / "a");
  ASSERT_EQ(::symlink((outside / "a").c_str(), (folder / "a").c_str()), 0);
  expect_throws_with<FileError>([&] { verify_manifest(folder.path()); }, "leads out of the folder");
  remove_file(folder / "a");
  ASSERT_EQ(::mkfifo((folder / "a").c_str(), 0600), 0);
  expect_throws_with<FileError>([&] { verify_manifest(folder.path()); }, "not a regular file");
}

}  // namespace
}  // namespace diffusers

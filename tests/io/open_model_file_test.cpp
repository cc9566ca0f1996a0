#include "io/open_model_file.h"

#include <string>

#include <diffusers/core/error.h>
#include <diffusers/io/files.h>
#include <diffusers/io/image.h>
#include <diffusers/io/model_file.h>
#include <diffusers/io/safetensors.h>

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_throws_with;
using test::TemporaryFolder;
using test::write_bytes;

void link_to(const std::string& target, const std::string& link) {
  ASSERT_EQ(::symlink(target.c_str(), link.c_str()), 0) << link;
}

/// A folder root/ with a folder and a file, and a folder elsewhere/ next to it with the same content.
class ModelFile : public testing::Test {
 protected:
  ModelFile() {
    create_folders(root_ + "/unet/inner");
    create_folders(elsewhere_ + "/unet");
    write_bytes(root_ + "/unet/config.json", "ours");
    write_bytes(root_ + "/file", "own");
    write_bytes(elsewhere_ + "/unet/config.json", "secret");
  }

  TemporaryFolder folder_;
  std::string root_ = folder_ / "root";
  std::string elsewhere_ = folder_ / "elsewhere";
};

TEST_F(ModelFile, SubfoldersAreBelowTheFolder) {
  EXPECT_EQ(folder_inside(root_, ""), root_);
  EXPECT_EQ(folder_inside(root_, "unet"), root_ + "/unet");
  EXPECT_EQ(folder_inside(root_, "./unet//inner/"), root_ + "/unet/inner");
  EXPECT_EQ(folder_inside(root_, "none"), root_ + "/none");
  EXPECT_EQ(folder_inside("", "none"), "none");
  for (const std::string& name :
       {std::string(".."), std::string("../elsewhere"), std::string("unet/../../elsewhere"),
        std::string("a\0b", 3), std::string("a\\b")})
    expect_throws_with<FileError>([&] { folder_inside(root_, name); }, "is not a plain file name");
  expect_throws_with<FileError>([&] { folder_inside(root_, elsewhere_); }, "expected a path below");
}

TEST_F(ModelFile, FilesAtAnyDepthAreBelowTheFolder) {
  write_bytes(root_ + "/unet/inner/deep", "deep");
  link_to("../config.json", root_ + "/unet/inner/up");
  link_to("../elsewhere", root_ + "/leaving");
  for (const std::string name : {"unet/config.json", "unet/inner/up"}) {
    EXPECT_NO_THROW(require_file_inside(root_, name));
    EXPECT_EQ(read_file_inside(root_, name, 100), "ours");
  }
  EXPECT_EQ(read_file_inside(root_, "unet/./inner/deep", 100), "deep");
  EXPECT_EQ(open_file_inside(root_, "file").size(), 3U);
  expect_throws_with<FileError>([&] { read_file_inside(root_, "unet/inner/deep", 3); }, "deep");
  const auto expect_refused = [&](const std::string& name, const std::string& part) {
    expect_throws_with<FileError>([&] { open_file_inside(root_, name); }, part);
    expect_throws_with<FileError>([&] { require_file_inside(root_, name); }, part);
  };
  expect_refused("leaving/unet/config.json", "a link leads out of the folder");
  expect_refused(elsewhere_ + "/unet/config.json", "expected a path below the folder");
  expect_refused("../elsewhere/unet/config.json", "is not a plain file name");
  expect_refused("unet/none", "cannot open: No such file");
  expect_refused("", "expected a file, found a folder");
  expect_refused("unet", "");
}

TEST_F(ModelFile, LinksOfFoldersMustStayInside) {
  link_to("unet", root_ + "/vae");
  EXPECT_EQ(read_model_file(folder_inside(root_, "vae"), "config.json"), "ours");
  link_to("../elsewhere/unet", root_ + "/relative");
  link_to(elsewhere_ + "/unet", root_ + "/absolute");
  link_to("relative", root_ + "/twice");
  link_to("..", root_ + "/above");
  for (const char* name : {"relative", "absolute", "twice", "above", "above/elsewhere/unet"})
    expect_throws_with<FileError>([&] { folder_inside(root_, name); }, "leads out of the folder");
  // The folder that is passed by the caller may be a link.
  link_to("root", folder_ / "named");
  EXPECT_EQ(read_model_file(folder_inside(folder_ / "named", "unet"), "config.json"), "ours");
  EXPECT_EQ(read_model_file(folder_ / "named", "file"), "own");
}

TEST_F(ModelFile, LinksOfFilesMustStayInside) {
  link_to("../file", root_ + "/unet/up");
  link_to("unet/config.json", root_ + "/down");
  link_to("../elsewhere/unet/config.json", root_ + "/out");
  link_to("out", root_ + "/twice");
  link_to("missing", root_ + "/broken");
  link_to("circle", root_ + "/circle");
  EXPECT_EQ(read_model_file(root_, "down"), "ours");
  for (const char* name : {"out", "twice"})
    expect_throws_with<FileError>([&] { read_model_file(root_, name); }, "leads out of the folder");
  // The file is inside root/, but not inside the folder that is passed here.
  expect_throws_with<FileError>([&] { read_model_file(root_ + "/unet", "up"); }, "leads out of the folder");
  expect_throws_with<FileError>([&] { read_model_file(root_, "broken"); }, "No such file");
  expect_throws_with<FileError>([&] { read_model_file(root_, "circle"); }, "symbolic links");
}

TEST_F(ModelFile, OnlyRegularFilesAreOpened) {
  ASSERT_EQ(::mkfifo((root_ + "/pipe").c_str(), 0600), 0);
  link_to("/dev/zero", root_ + "/device");
  link_to("/etc/passwd", root_ + "/passwords");
  link_to(".", root_ + "/self");
  expect_throws_with<FileError>([&] { read_model_file(root_, "pipe"); }, "not a regular file");
  expect_throws_with<FileError>([&] { read_model_file(root_, "unet"); }, "found a folder");
  expect_throws_with<FileError>([&] { read_model_file(root_, "device"); }, "leads out of the folder");
  expect_throws_with<FileError>([&] { read_model_file(root_, "passwords"); }, "leads out of the folder");
  expect_throws_with<FileError>([&] { read_model_file(root_, "self"); }, "found a folder");
  expect_throws_with<FileError>([&] { read_model_file(root_, "unet/config.json"); }, "not a plain file name");
  expect_throws_with<FileError>([&] { read_model_file(root_, ".."); }, "not a plain file name");
  expect_throws_with<FileError>([&] { read_model_file(root_, "none"); }, "No such file");
  expect_throws_with<FileError>([&] { read_model_file(root_ + "/none", "file"); }, "No such file");
  expect_throws_with<FileError>([&] { read_model_file(root_, "file", 2); }, "3 bytes, at most 2");
}

TEST_F(ModelFile, BlobsOfTheHubsCacheAreRead) {
  const std::string snapshot = folder_ / "cache/snapshots/1";
  create_folders(snapshot + "/unet");
  create_folders(folder_ / "cache/blobs/folder");
  write_bytes(folder_ / "cache/blobs/0123", "blob");
  write_bytes(folder_ / "cache/blobs/folder/file", "no blob");
  write_bytes(folder_ / "cache/refs", "main");
  link_to("../../../blobs/0123", snapshot + "/unet/config.json");
  link_to("../../blobs/0123", snapshot + "/file");
  EXPECT_EQ(read_model_file(snapshot, "file"), "blob");
  EXPECT_EQ(read_model_file(folder_inside(snapshot, "unet"), "config.json"), "blob");
  link_to("cache/snapshots/1", folder_ / "named");
  EXPECT_EQ(read_model_file(folder_inside(folder_ / "named", "unet"), "config.json"), "blob");

  link_to("../../refs", snapshot + "/refs");
  link_to("../../blobs/folder/file", snapshot + "/deeper");
  link_to("../../../blobs", snapshot + "/unet/blobs");
  expect_throws_with<FileError>([&] { read_model_file(snapshot, "refs"); }, "leads out of the folder");
  expect_throws_with<FileError>([&] { read_model_file(snapshot, "deeper"); }, "leads out of the folder");
  expect_throws_with<FileError>([&] { folder_inside(snapshot, "unet/blobs"); }, "leads out of the folder");
}

TEST_F(ModelFile, WhatStandsInPlaceOfWeightsAndPicturesIsNamed) {
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 335304388\n";
  const std::string weights = root_ + "/unet/diffusion_pytorch_model.safetensors";
  const std::pair<std::string, const char*> cases[] = {
      {pointer, "Git LFS pointer"},
      {"<!DOCTYPE html>\n<html><body>Not found</body></html>", "web page"},
      {std::string("PK\x03\x04\0\0\x08\x08\0\0", 10), "as torch.save writes it"},
      {"\x80\x02\x8a\x0al\xfc\x9c\x46\xf9 j\xa8P\x19.", "this is a pickle"},
      {"<html", "web page"}};
  for (const auto& [bytes, part] : cases) {
    write_bytes(weights, bytes);
    expect_throws_with<FileError>([&] { load_weights(root_ + "/unet"); }, part);
    expect_throws_with<FileError>([&] { load_safetensors(weights); }, "expected a safetensors file: ");
    write_bytes(root_ + "/a.png", bytes);
    expect_throws_with<FileError>([&] { load_image(root_ + "/a.png"); }, part);
  }
  write_bytes(weights, "");
  expect_throws_with<FileError>([&] { load_weights(root_ + "/unet"); }, "0 bytes are too few");
  write_bytes(root_ + "/a.png", "");
  expect_throws_with<FileError>([&] { load_image(root_ + "/a.png"); }, "the file is empty");
  // A damaged safetensors file keeps its own error.
  write_bytes(weights, std::string("\x80\x02\0\0\0\0\0\0{}", 10));
  expect_throws_with<FileError>([&] { load_safetensors(weights); }, "a header of 640 bytes in a file of 10");
  remove_file(weights);
  write_bytes(root_ + "/unet/diffusion_pytorch_model.safetensors.index.json", pointer);
  expect_throws_with<FileError>([&] { load_weights(root_ + "/unet"); }, "Git LFS pointer");
}

}  // namespace
}  // namespace diffusers

// Saving over an older save: after any failure the folder holds either the old or the new save, complete.

#include <cerrno>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/io/model_file.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/json.h"
#include "io/save_model_files.h"
#include "support/golden.h"
#include "support/killed_process.h"

namespace diffusers {
namespace {

using test::expect_equal;
using test::TemporaryFolder;

/// One save that another one replaces.
struct SaveKind {
  const char* name;
  int64_t max_shard_size;
  bool has_other_names = false;  // the tensors
};

TEST(Weights, AKillAtAnySystemCallLeavesTheOldOrTheNewSave) {
  const test::MemoryScope memory;
  const auto tensors_of = [](double value, bool has_other_names) {
    const std::string prefix = has_other_names ? "other." : "";
    TensorMap tensors;
    for (const char* name : {"a", "b", "c"})
      tensors.insert(prefix + name, at::full({64}, value));  // 256 bytes each
    return tensors;
  };
  const std::vector<SaveKind> kinds{{"one file", 1'000'000},
                                    {"two shards", 512},
                                    {"three shards", 256},
                                    {"two shards of other tensors", 512, true}};
  const auto save = [&](const SaveKind& kind, double value, const std::string& folder,
                        const std::string& variant = "") {
    save_weights(tensors_of(value, kind.has_other_names), folder, "model",
                 {.variant = variant, .max_shard_size = kind.max_shard_size});
  };
  // Changes to more files, to fewer files, and to other content in files of the same names.
  const std::vector<std::pair<int, int>> pairs{{0, 0}, {0, 1}, {1, 0}, {1, 1}, {1, 2}, {2, 1}, {1, 3}};
  int64_t kills = 0;
  for (const auto& [old_number, new_number] : pairs) {
    const SaveKind& old_kind = kinds[static_cast<std::size_t>(old_number)];
    const SaveKind& new_kind = kinds[static_cast<std::size_t>(new_number)];
    SCOPED_TRACE(std::string(old_kind.name) + ", then " + new_kind.name);
    const std::string variant = old_number == 1 && new_number == 1 ? "fp16" : "";
    const TemporaryFolder fresh;
    save(new_kind, 2, fresh.path(), variant);
    std::unique_ptr<TemporaryFolder> folder;
    int64_t old_ones = 0;
    int64_t new_ones = 0;
    kills += test::kill_at_each_system_call(
        [&] {
          folder = std::make_unique<TemporaryFolder>();
          save(old_kind, 1, folder->path(), variant);
          test::write_bytes(*folder / "config.json", "of the program");
        },
        [&] { save(new_kind, 2, folder->path(), variant); },
        [&](int64_t call) {
          SCOPED_TRACE(call);
          const TensorMap found = load_weights(folder->path(), "model", {.variant = variant});
          const bool is_new = found.begin()->second[0].item<float>() == 2;
          ++(is_new ? new_ones : old_ones);
          const SaveKind& kind = is_new ? new_kind : old_kind;
          const TensorMap expected = tensors_of(is_new ? 2 : 1, kind.has_other_names);
          ASSERT_EQ(found.size(), expected.size());
          for (const auto& [name, tensor] : expected) expect_equal(found.at(name), tensor, name);
          // The next save leaves the files that it leaves in a new folder, and files that no save wrote.
          save(new_kind, 2, folder->path(), variant);
          std::vector<std::string> left = list_folder(folder->path());
          std::erase_if(left, [](const std::string& name) { return name.ends_with(".tmp"); });
          std::vector<std::string> names = list_folder(fresh.path());
          names.insert(names.begin(), "config.json");
          EXPECT_EQ(left, names);
          for (const std::string& name : list_folder(fresh.path()))
            EXPECT_EQ(read_text_file(*folder / name), read_text_file(fresh / name)) << name;
        });
    if (kills == 0) GTEST_SKIP() << "a child process may not be traced here";
    EXPECT_GT(old_ones, 10);
    EXPECT_GT(new_ones, 2);
  }
  EXPECT_GT(kills, 400);
}

TEST(Weights, AFailingSystemCallLeavesTheOldOrTheNewSave) {
  const test::MemoryScope memory;
  const TensorMap old{{"a", at::zeros({64})}, {"b", at::zeros({64})}};
  const TensorMap next{{"a", at::ones({64})}, {"b", at::ones({64})}};
  const auto save = [](const TensorMap& tensors, const std::string& folder) {
    save_weights(tensors, folder, "model", {.max_shard_size = 256});
  };
  int64_t failures = 0;
  // If link() fails with EPERM, the file system has no hard links, and the shard is copied.
  for (const int error : {EIO, EPERM})
    for (int64_t call = 1;; ++call) {
      SCOPED_TRACE(call);
      const TemporaryFolder folder;
      save(old, folder.path());
      bool is_injected = false;
      const test::ChildEnd end = test::failing_system_call(call, error, is_injected, [&] {
        try {
          save(next, folder.path());
        } catch (const FileError&) {
        }
      });
      if (end == test::ChildEnd::kNotTraced) GTEST_SKIP() << "a child process may not be traced here";
      ASSERT_EQ(end, test::ChildEnd::kEnded);
      if (!is_injected) break;
      ++failures;
      const TensorMap found = load_weights(folder.path(), "model");
      const bool is_new = found.at("a")[0].item<float>() == 1;
      for (const auto& [name, tensor] : is_new ? next : old) expect_equal(found.at(name), tensor, name);
      save(next, folder.path());
      expect_equal(load_weights(folder.path(), "model").at("b"), next.at("b"));
    }
  EXPECT_GT(failures, 60);
}

TEST(ModelFiles, ChangeTogetherWhereTheConfigChangesToo) {
  const test::MemoryScope memory;
  const TensorMap old{{"a", at::zeros({64})}, {"b", at::zeros({64})}};
  const TensorMap next{{"c", at::ones({32})}, {"d", at::ones({96})}};
  std::unique_ptr<TemporaryFolder> folder;
  const auto save = [&](const TensorMap& tensors, const std::string& config) {
    save_model_files(tensors, *folder / "model", config, "model", {.max_shard_size = 300});
  };
  int64_t old_ones = 0;
  int64_t new_ones = 0;
  const int64_t kills = test::kill_at_each_system_call(
      [&] {
        folder = std::make_unique<TemporaryFolder>();
        save(old, "old");
        create_folders(*folder / "model/notes");
        test::write_bytes(*folder / "model/notes/file", "mine");
        ASSERT_EQ(::symlink("notes/file", (*folder / "model/link").c_str()), 0);
        ASSERT_EQ(::chmod((*folder / "model").c_str(), 0750), 0);
      },
      [&] { save(next, "new"); },
      [&](int64_t call) {
        SCOPED_TRACE(call);
        const std::string config = read_text_file(*folder / "model/config.json");
        ++(config == "new" ? new_ones : old_ones);
        const TensorMap found = load_weights(*folder / "model", "model");
        ASSERT_EQ(found.size(), 2U);
        for (const auto& [name, tensor] : config == "new" ? next : old)
          expect_equal(found.at(name), tensor, name);
        EXPECT_EQ(read_text_file(*folder / "model/link"), "mine");
        struct stat status {};
        EXPECT_EQ(::stat((*folder / "model").c_str(), &status), 0);
        EXPECT_EQ(status.st_mode & 0777, 0750U);
      });
  if (kills == 0) GTEST_SKIP() << "a child process may not be traced here";
  EXPECT_GT(old_ones, 50);
  EXPECT_GT(new_ones, 5);

  // After a complete save, no file of the old save is left.
  folder = std::make_unique<TemporaryFolder>();
  save(old, "old");
  save(next, "new");
  EXPECT_EQ(list_folder(folder->path()), std::vector<std::string>{"model"});
  EXPECT_EQ(list_folder(*folder / "model").size(), 4U);
}

TEST(ModelFiles, AreWrittenInPlaceWhereTheFolderCannotBeExchanged) {
  const TemporaryFolder folder;
  const TensorMap tensors{{"a", at::zeros({64})}};
  save_model_files(tensors, folder / "model", "old");
  struct stat before {};
  struct stat after {};
  ASSERT_EQ(::stat((folder / "model").c_str(), &before), 0);
  // The path of the folder is ".", which cannot be exchanged.
  const auto save_here = [&] {
    if (::chdir((folder / "model").c_str()) != 0) throw FileError("chdir");
    save_model_files(tensors, ".", "newer");
  };
  ASSERT_EQ(test::killed_at_system_call(1'000'000, save_here), test::ChildEnd::kEnded);
  EXPECT_EQ(read_text_file(folder / "model/config.json"), "newer");
  // The file system cannot exchange folders.
  const auto save_denied = [&] {
    test::deny_rename_exchange(EINVAL);
    save_model_files(tensors, folder / "model", "newest");
  };
  ASSERT_EQ(test::killed_at_system_call(1'000'000, save_denied), test::ChildEnd::kEnded);
  EXPECT_EQ(read_text_file(folder / "model/config.json"), "newest");
  ASSERT_EQ(::stat((folder / "model").c_str(), &after), 0);
  EXPECT_EQ(before.st_ino, after.st_ino);
  EXPECT_EQ(list_folder(folder.path()), std::vector<std::string>{"model"});
  EXPECT_EQ(list_folder(folder / "model").size(), 2U);
}

TEST(Weights, AnIndexThatNamesOtherFilesIsReplaced) {
  // A file whose name the new save also uses, and a file with the name under which the old file would be
  // kept.
  const TemporaryFolder folder;
  const std::string first = "model-00001-of-00002.safetensors";
  const std::string kept = "model-before-save-00001-of-00002.safetensors";
  save_safetensors({{"a", at::zeros({64})}}, folder / first);
  save_safetensors({{"b", at::zeros({64})}}, folder / kept);
  test::write_bytes(folder / "model.safetensors.index.json",
                    dump_json({{"metadata", Json::object()}, {"weight_map", {{"a", first}, {"b", kept}}}}));
  EXPECT_EQ(load_weights(folder.path(), "model").size(), 2U);
  save_weights({{"a", at::ones({64})}, {"b", at::ones({64})}}, folder.path(), "model",
               {.max_shard_size = 256});
  EXPECT_EQ(load_weights(folder.path(), "model").at("b")[0].item<float>(), 1);
  EXPECT_EQ(list_folder(folder.path()), (std::vector<std::string>{first, "model-00002-of-00002.safetensors",
                                                                  "model.safetensors.index.json"}));
  // A file that does not belong to this save is kept.
  test::write_bytes(folder / "model-before-save.txt", "");
  test::write_bytes(folder / "model.safetensors.index.json", "damaged");
  save_weights({{"a", at::ones({64})}}, folder.path(), "model");
  EXPECT_EQ(list_folder(folder.path()),
            (std::vector<std::string>{"model-before-save.txt", "model.safetensors"}));
}

}  // namespace
}  // namespace diffusers

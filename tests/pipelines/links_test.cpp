// One function opens every file of a model folder. It does not follow links out of the folder.

#include <cstdlib>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/io/files.h>
#include <diffusers/io/model_file.h>
#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/t2i_adapter.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/pipelines/ddim_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_pipeline.h>
#include <diffusers/schedulers/pndm_scheduler.h>
#include <diffusers/text/clip_text_model.h>
#include <diffusers/text/clip_tokenizer.h>

#include <gtest/gtest.h>
#include <unistd.h>

#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_throws_with;
using test::golden_path;

constexpr const char* kLeaves = "leads out of the folder";
constexpr const char* kTracedFolder = "DIFFUSERS_TRACED_FOLDER";

void link_to(const std::string& target, const std::string& link) {
  ASSERT_EQ(::symlink(target.c_str(), link.c_str()), 0) << link;
}

/// Calls `each(relative path)` for every file below `folder`.
void for_each_file(const std::string& folder, const std::function<void(const std::string&)>& each,
                   const std::string& below = "") {
  for (const std::string& name : list_folder(join_path(folder, below))) {
    const std::string path = join_path(below, name);
    if (folder_exists(join_path(folder, path))) {
      for_each_file(folder, each, path);
    } else {
      each(path);
    }
  }
}

void copy_tree(const std::string& from, const std::string& to) {
  create_folders(to);
  for_each_file(from, [&](const std::string& path) {
    create_folders(parent_folder(join_path(to, path)));
    test::write_bytes(join_path(to, path), read_text_file(join_path(from, path)));
  });
}

/// Copies `from` in the layout of the Hugging Face Hub's cache, with a link for each file.
void make_hub_cache(const std::string& from, const std::string& cache) {
  create_folders(cache + "/blobs");
  int number = 0;
  for_each_file(from, [&](const std::string& path) {
    const std::string blob = "blobs/" + std::to_string(number++);
    test::write_bytes(join_path(cache, blob), read_text_file(join_path(from, path)));
    const std::string link = join_path(cache, "snapshots/main/" + path);
    create_folders(parent_folder(link));
    const bool is_deep = path.find('/') != std::string::npos;
    link_to((is_deep ? "../../../" : "../../") + blob, link);
  });
}

/// Writes the tokenizer's older files next to the pipeline.
void add_old_tokenizer(const std::string& folder) {
  copy_tree(golden_path("clip_tokenizer"), folder);
  test::write_bytes(folder + "/special_tokens_map.json", "{}");
  test::write_bytes(folder + "/added_tokens.json", "{}");
}

void load(const std::string& folder) { StableDiffusionPipeline::from_pretrained(folder); }

TEST(Links, TheHubsCacheIsRead) {
  const test::TemporaryFolder folder;
  make_hub_cache(golden_path("tiny_stable_diffusion"), folder / "cache");
  const std::string snapshot = folder / "cache/snapshots/main";
  EXPECT_NO_THROW(load(snapshot));
  EXPECT_NO_THROW(UNet2DConditionModel::from_pretrained(snapshot, {.subfolder = "unet"}));
  EXPECT_NO_THROW(UNet2DConditionModel::from_pretrained(snapshot + "/unet"));
  link_to("cache/snapshots/main", folder / "named");
  EXPECT_NO_THROW(load(folder / "named"));
}

TEST(Links, AnyFileThatLeavesTheFolderIsRefused) {
  const test::TemporaryFolder folder;
  const std::string root = folder / "root";
  copy_tree(golden_path("tiny_stable_diffusion"), root);
  make_hub_cache(golden_path("tiny_stable_diffusion"), folder / "cache");
  const std::string snapshot = folder / "cache/snapshots/main";
  int files = 0;
  for_each_file(root, [&](const std::string& path) {
    ++files;
    for (const std::string& base : {root, snapshot}) {
      const std::string file = join_path(base, path);
      const std::string bytes = read_text_file(file);
      test::write_bytes(folder / "outside", bytes);
      remove_file(file);
      link_to(folder / "outside", file);
      SCOPED_TRACE(file);
      expect_throws_with<FileError>([&] { load(base); }, kLeaves);
      remove_file(file);
      test::write_bytes(file, bytes);
      EXPECT_NO_THROW(load(base));
    }
  });
  EXPECT_EQ(files, 10);
}

TEST(Links, AnyFileOfATokenizerThatLeavesTheFolderIsRefused) {
  const test::TemporaryFolder folder;
  const std::string root = folder / "root";
  add_old_tokenizer(root + "/tokenizer");
  int files = 0;
  for_each_file(root, [&](const std::string& path) {
    if (path.ends_with(".md")) return;
    ++files;
    const std::string file = join_path(root, path);
    rename_path(file, folder / "outside");
    link_to("../../outside", file);
    SCOPED_TRACE(file);
    expect_throws_with<FileError>([&] { CLIPTokenizer::from_pretrained(root, {.subfolder = "tokenizer"}); },
                                  kLeaves);
    remove_file(file);
    rename_path(folder / "outside", file);
    EXPECT_NO_THROW(CLIPTokenizer::from_pretrained(root, {.subfolder = "tokenizer"}));
  });
  EXPECT_EQ(files, 5);
}

TEST(Links, AnyComponentThatLeavesTheFolderIsRefused) {
  const test::TemporaryFolder folder;
  const std::string root = folder / "root";
  copy_tree(golden_path("tiny_stable_diffusion"), root);
  copy_tree(golden_path("tiny_stable_diffusion"), folder / "outside");
  for (const std::string component : {"scheduler", "text_encoder", "tokenizer", "unet", "vae"}) {
    SCOPED_TRACE(component);
    const std::string path = join_path(root, component);
    rename_path(path, folder / "kept");
    link_to("../outside/" + component, path);
    expect_throws_with<FileError>([&] { load(root); }, kLeaves);
    const auto refused = [&](const std::function<void()>& function) {
      expect_throws_with<FileError>(function, kLeaves);
    };
    if (component == "scheduler") {
      refused([&] { Scheduler::from_pretrained(root, {.subfolder = component}); });
      refused([&] { PNDMScheduler::from_pretrained(root, {.subfolder = component}); });
    } else if (component == "text_encoder") {
      refused([&] { CLIPTextModel::from_pretrained(root, {.subfolder = component}); });
    } else if (component == "tokenizer") {
      refused([&] { CLIPTokenizer::from_pretrained(root, {.subfolder = component}); });
    } else if (component == "unet") {
      refused([&] { UNet2DConditionModel::from_pretrained(root, {.subfolder = component}); });
    } else {
      refused([&] { AutoencoderKL::from_pretrained(root, {.subfolder = component}); });
    }
    remove_file(path);
    // A link to another folder of the same pipeline is allowed.
    rename_path(folder / "kept", join_path(root, "real_" + component));
    link_to("real_" + component, path);
    EXPECT_NO_THROW(load(root));
    remove_file(path);
    rename_path(join_path(root, "real_" + component), path);
  }
  copy_tree(golden_path("tiny_ddpm_pipeline"), folder / "ddpm");
  rename_path(folder / "ddpm/unet", folder / "ddpm_unet");
  link_to("../ddpm_unet", folder / "ddpm/unet");
  expect_throws_with<FileError>([&] { DDIMPipeline::from_pretrained(folder / "ddpm"); }, kLeaves);
}

TEST(Links, AnAdapterNextToTheFirstIsHeldToTheSame) {
  const test::TemporaryFolder folder;
  const T2IAdapter adapter({.channels = {8, 8, 8, 8}, .num_res_blocks = 1});
  for (const char* name : {"root/adapter", "root/adapter_1", "outside"})
    adapter->save_pretrained(folder / name);
  EXPECT_NO_THROW(MultiAdapter::from_pretrained(folder / "root/adapter"));
  EXPECT_NO_THROW(MultiAdapter::from_pretrained(folder / "root", {.subfolder = "adapter"}));
  link_to("../outside", folder / "root/adapter_2");
  expect_throws_with<FileError>([&] { MultiAdapter::from_pretrained(folder / "root/adapter"); }, kLeaves);
  expect_throws_with<FileError>(
      [&] { MultiAdapter::from_pretrained(folder / "root", {.subfolder = "adapter"}); }, kLeaves);
}

/// Loads everything in the folder that the environment variable names. Refused files must not be opened.
TEST(Links, LoadForATrace) {
  const char* folder = std::getenv(kTracedFolder);
  if (folder == nullptr) return;  // only NothingOutsideIsOpened calls it
  for (const std::string& name : list_folder(folder)) {
    if (name.starts_with("outside")) continue;
    const bool is_cache = name == "cache";
    const std::string root = join_path(folder, is_cache ? "cache/snapshots/main" : name);
    bool is_loaded = true;
    try {
      load(root);
    } catch (const FileError&) {
      is_loaded = false;
    }
    EXPECT_EQ(is_loaded, is_cache || name == "good") << name;
  }
}

TEST(Links, NothingOutsideIsOpened) {
  if (std::system("strace -o /dev/null true 2>/dev/null") != 0)
    GTEST_SKIP() << "strace is missing, or may not trace here";
  const test::TemporaryFolder folder;
  const std::string golden = golden_path("tiny_stable_diffusion");
  copy_tree(golden, folder / "good");
  copy_tree(golden, folder / "outside");
  make_hub_cache(golden, folder / "cache");
  int number = 0;
  const auto hostile = [&](const std::string& path) {
    const std::string root = folder / ("hostile_" + std::to_string(number++));
    copy_tree(golden, root);
    rename_path(join_path(root, path), join_path(root, "moved"));
    link_to("../" + std::string(path.find('/') == std::string::npos ? "" : "../") + "outside/" + path,
            join_path(root, path));
  };
  for_each_file(golden, hostile);
  for (const char* component : {"scheduler", "text_encoder", "tokenizer", "unet", "vae"}) hostile(component);

  char program[4096] = {};
  ASSERT_GT(::readlink("/proc/self/exe", program, sizeof(program) - 1), 0);
  const std::string log = folder / "outside.log";
  // With -y, strace prints the real path of an opened file: `openat(...) = 5</path>`.
  // LeakSanitizer does not work in a traced process.
  const std::string command =
      std::string(kTracedFolder) + "=" + folder.path() +
      " ASAN_OPTIONS=detect_leaks=0 strace -f -y -qq -e trace=?open,openat,?openat2 -o " + log + " " +
      program + " --gtest_filter=Links.LoadForATrace --gtest_brief=1";
  ASSERT_EQ(std::system(command.c_str()), 0);
  std::ifstream lines(log);
  std::string line;
  int inside = 0;
  while (std::getline(lines, line)) {
    const auto result = line.rfind(" = ");
    if (result == std::string::npos || line.find('<', result) == std::string::npos) continue;  // refused
    const std::string opened = line.substr(line.find('<', result) + 1);
    if (!opened.starts_with(folder.path() + "/")) continue;  // a shared library or the folder
    EXPECT_FALSE(opened.starts_with(folder / "outside")) << line;
    inside += opened.starts_with(folder / "good/") || opened.starts_with(folder / "cache/blobs/") ? 1 : 0;
  }
  EXPECT_GE(inside, 2 * 10);  // the trace must contain the files that are read
}

}  // namespace
}  // namespace diffusers

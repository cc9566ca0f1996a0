#include <csignal>
#include <functional>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/io/model_file.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/json.h"
#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_equal;
using test::expect_throws_with;
using test::golden_path;
using test::TemporaryFolder;

const std::string kIndex = "diffusion_pytorch_model.safetensors.index.json";
const std::string kSingle = "diffusion_pytorch_model.safetensors";

/// The tiny model that Python saved, in the order of its state dict.
TensorMap python_state_dict() {
  const TensorMap stored = load_weights(golden_path("io/whole"));
  TensorMap ordered;
  for (const auto& name :
       parse_json(test::load_golden("io.safetensors").metadata.at("state_dict_order"), "order"))
    ordered.insert(name.get<std::string>(), stored.at(name.get<std::string>()));
  EXPECT_EQ(ordered.size(), stored.size());
  return ordered;
}

void copy_file(const std::string& from, const std::string& to) { write_file(read_text_file(from), to); }

void copy_shards(const TemporaryFolder& folder) {
  for (const auto& name : list_folder(golden_path("io/shards")))
    copy_file(golden_path("io/shards/" + name), folder / name);
}

TEST(Weights, ShardsOfPythonLoadAsTheWholeFile) {
  const TensorMap whole = load_weights(golden_path("io/whole"));
  for (const std::string variant : {"", "fp16"}) {
    const WeightsReader reader(golden_path("io/shards"), "diffusion_pytorch_model", variant);
    EXPECT_TRUE(reader.is_sharded());
    EXPECT_EQ(reader.names().size(), whole.size());
    for (const auto& [name, tensor] : whole) {
      EXPECT_EQ(reader.info(name).shape, tensor.sizes().vec());
      expect_equal(reader.get(name), tensor, name);
    }
    EXPECT_FALSE(reader.contains("x"));
    expect_throws_with<FileError>([&] { (void)reader.get("x"); }, "there is no tensor \"x\"");
  }
}

TEST(Weights, SavesTheFilesThatPythonSaves) {
  const TensorMap tensors = python_state_dict();
  const TemporaryFolder folder;
  save_weights(tensors, folder / "whole");
  save_weights(tensors, folder / "shards", "diffusion_pytorch_model", {.max_shard_size = 5000});
  save_weights(tensors, folder / "shards", "diffusion_pytorch_model",
               {.variant = "fp16", .max_shard_size = 5000});
  for (const std::string part : {"whole", "shards"}) {
    std::vector<std::string> names = list_folder(golden_path("io/" + part));
    std::erase(names, "config.json");
    EXPECT_EQ(list_folder(folder / part), names);
    for (const auto& name : names)
      EXPECT_EQ(read_text_file(folder / (part + "/" + name)),
                read_text_file(golden_path("io/" + part + "/" + name)))
          << name;
  }
}

TEST(Weights, ATensorAboveTheLimitHasItsOwnShard) {
  const TemporaryFolder folder;
  save_weights({{"a", at::ones({1})}, {"large", at::ones({100})}, {"b", at::ones({1})}}, folder.path(),
               "model", {.max_shard_size = 40});
  const Json index = parse_json(read_text_file(folder / "model.safetensors.index.json"), "index");
  EXPECT_EQ(index["weight_map"]["large"], "model-00001-of-00002.safetensors");
  EXPECT_EQ(index["weight_map"]["a"], "model-00002-of-00002.safetensors");
  EXPECT_EQ(index["weight_map"]["b"], "model-00002-of-00002.safetensors");
  EXPECT_EQ(index["metadata"]["total_size"], 408);
}

TEST(Weights, SavingAgainRemovesWhatIsStale) {
  const TemporaryFolder folder;
  const TensorMap tensors = python_state_dict();
  const auto save = [&](int64_t size, const std::string& variant = "") {
    save_weights(tensors, folder.path(), "diffusion_pytorch_model",
                 {.variant = variant, .max_shard_size = size});
  };
  save(1000, "ema");
  const std::size_t others = list_folder(folder.path()).size();
  write_file("{}", folder / "config.json");
  save(5000);
  EXPECT_EQ(list_folder(folder.path()).size(), others + 1 + 4);
  save(8000);
  EXPECT_EQ(list_folder(folder.path()).size(), others + 1 + 3);
  expect_equal(load_weights(folder.path()).at("conv_in.weight"), tensors.at("conv_in.weight"));
  save(1'000'000);
  EXPECT_EQ(list_folder(folder.path()).size(), others + 1 + 1);
  EXPECT_FALSE(WeightsReader(folder.path()).is_sharded());
  save(5000);
  EXPECT_FALSE(file_exists(folder / kSingle));
  EXPECT_TRUE(WeightsReader(folder.path()).is_sharded());
}

TEST(Weights, LegacyIndexNamesAreRead) {
  const TemporaryFolder folder;
  for (const auto& name : list_folder(golden_path("io/shards")))
    if (name.find("of-00003") != std::string::npos && name.find("fp16") == std::string::npos)
      copy_file(golden_path("io/shards/" + name), folder / name);
  copy_file(golden_path("io/shards/" + kIndex),
            folder / "diffusion_pytorch_model.safetensors.fp16.index.json");
  EXPECT_EQ(load_weights(folder.path(), "diffusion_pytorch_model", {.variant = "fp16"}).size(),
            load_weights(golden_path("io/whole")).size());
}

TEST(Weights, MissingFilesAndPicklesAreExplained) {
  const TemporaryFolder folder;
  expect_throws_with<FileError>([&] { load_weights(folder / "none"); }, "there is no such folder");
  expect_throws_with<FileError>([&] { load_weights(folder.path()); }, "no other safetensors file");
  write_file("x", folder / "diffusion_pytorch_model.bin");
  expect_throws_with<FileError>([&] { load_weights(folder.path()); }, "convert it to safetensors");
  remove_file(folder / "diffusion_pytorch_model.bin");
  save_weights({{"a", at::ones({1})}}, folder.path(), "model", {.variant = "fp16"});
  expect_throws_with<FileError>([&] { load_weights(folder.path(), "model"); },
                                "there are: model.fp16.safetensors");
  expect_throws_with<FileError>([&] { load_weights(folder.path(), "../model"); }, "not a plain file name");
  expect_throws_with<FileError>([&] { load_weights(folder.path(), "model", {.variant = "/x"}); },
                                "not a plain file name");
  expect_throws_with<ConfigError>([&] { save_weights({}, folder.path(), "model", {.max_shard_size = 0}); },
                                  "max_shard_size is 0");
}

TEST(Weights, InconsistentIndicesAreRefused) {
  struct Case {
    std::string name;
    std::function<void(Json&)> change;
    std::string message;
  };
  const std::vector<Case> cases{
      {"not an object", [](Json& index) { index = Json::array(); }, "weight_map"},
      {"no map", [](Json& index) { index.erase("weight_map"); }, "weight_map"},
      {"empty map", [](Json& index) { index["weight_map"] = Json::object(); }, "weight_map"},
      {"map is a list", [](Json& index) { index["weight_map"] = Json::array({1}); }, "weight_map"},
      {"a number for a file", [](Json& index) { index["weight_map"]["conv_in.bias"] = 1; },
       "expected a string"},
      {"a tensor missing in the index", [](Json& index) { index["weight_map"].erase("conv_in.bias"); },
       "does not place there"},
      {"a tensor too many",
       [](Json& index) { index["weight_map"]["x"] = index["weight_map"]["conv_in.bias"]; },
       "lacks tensor \"x\""},
      {"a tensor in another shard",
       [](Json& index) { index["weight_map"]["conv_in.bias"] = index["weight_map"]["conv_out.bias"]; },
       "conv_in.bias"},
      {"a missing shard", [](Json& index) { index["weight_map"]["x"] = "other.safetensors"; }, "is missing"},
      {"a path", [](Json& index) { index["weight_map"]["x"] = "../other.safetensors"; },
       "not a plain file name"},
      {"an absolute path", [](Json& index) { index["weight_map"]["x"] = "/etc/passwd"; },
       "not a plain file name"},
      {"the folder above", [](Json& index) { index["weight_map"]["x"] = ".."; }, "not a plain file name"},
      {"a pickle", [](Json& index) { index["weight_map"]["x"] = "model.bin"; }, "convert it to safetensors"},
  };
  for (const auto& wrong : cases) {
    SCOPED_TRACE(wrong.name);
    const TemporaryFolder folder;
    copy_shards(folder);
    Json index = parse_json(read_text_file(folder / kIndex), "index");
    wrong.change(index);
    write_file(dump_json(index), folder / kIndex);
    expect_throws_with<FileError>([&] { WeightsReader reader(folder.path()); }, wrong.message);
  }
}

TEST(Weights, TornIndicesAreRefused) {
  const std::string good = read_text_file(golden_path("io/shards/" + kIndex));
  const auto insert = [&](const std::string& entry) {
    std::string text = good;
    text.insert(text.find("\"weight_map\": {") + 15, entry);
    return text;
  };
  struct Case {
    std::string name;
    std::string text;
    std::string message;
  };
  const std::vector<Case> cases{
      {"empty", "", "not valid JSON"},
      {"cut", good.substr(0, good.size() / 2), "not valid JSON"},
      {"two values", good + "{}", "not valid JSON"},
      {"NUL", good + std::string(1, '\0'), "NUL byte"},
      {"byte-order mark", "\xef\xbb\xbf" + good, "byte-order mark"},
      {"deep", std::string(1'000'000, '{'), "not valid JSON"},
      {"deep lists", std::string(1'000'000, '['), "deeper than 128"},
      {"a map twice", good.substr(0, good.rfind('}')) + R"(, "weight_map": {}})", "occurs twice"},
      {"a tensor twice", insert(R"("a": "x.safetensors", "a": "y.safetensors", )"), "occurs twice"},
      {"a NUL in a name", insert(R"("a": "x\u0000.safetensors", )"), "not a plain file name"},
      {"a backslash", insert(R"("a": "..\\x.safetensors", )"), "not a plain file name"},
      {"no name", insert(R"("a": "", )"), "not a plain file name"},
      {"no file for a tensor", insert(R"("a": null, )"), "expected a string"},
      {"too long", good + std::string(std::size_t{16} << 20, ' '), "at most 16777216"},
  };
  for (const auto& wrong : cases) {
    SCOPED_TRACE(wrong.name);
    const TemporaryFolder folder;
    copy_shards(folder);
    test::write_bytes(folder / kIndex, wrong.text);
    expect_throws_with<FileError>([&] { WeightsReader reader(folder.path()); }, wrong.message);
    expect_throws_with<FileError>([&] { WeightsReader reader(folder.path()); }, folder / kIndex);
  }
}

TEST(Weights, ShardsThatAreNoFilesOrTornAreRefused) {
  const TemporaryFolder folder;
  copy_shards(folder);
  const std::string shard = folder / "diffusion_pytorch_model-00002-of-00003.safetensors";
  const std::string good = read_text_file(shard);
  test::write_bytes(shard, std::string_view(good).substr(0, good.size() - 1));
  expect_throws_with<FileError>([&] { load_weights(folder.path()); }, shard);
  remove_file(shard);
  create_folders(shard);
  expect_throws_with<FileError>([&] { load_weights(folder.path()); }, "is missing");
  remove_folder(shard);
  // A pipe must be refused without waiting for it.
  ASSERT_EQ(::mkfifo(shard.c_str(), 0600), 0);
  expect_throws_with<FileError>([&] { load_weights(folder.path()); }, "is missing");
}

TEST(Weights, AFullDiskLeavesTheOldSaveWhole) {
  const TemporaryFolder folder;
  const TensorMap old{{"a", at::zeros({64})}, {"b", at::zeros({64})}};
  save_weights(old, folder.path(), "model", {.max_shard_size = 256});
  const std::vector<std::string> before = list_folder(folder.path());
  // The first shard is within the limit, but the second is not.
  const TensorMap large{{"a", at::ones({64})}, {"b", at::ones({2048})}};
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &limit), 0);
  auto* const handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{4096, limit.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  expect_throws_with<FileError>(
      [&] { save_weights(large, folder.path(), "model", {.max_shard_size = 8192}); }, "File too large");
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(list_folder(folder.path()), before);
  expect_equal(load_weights(folder.path(), "model").at("a"), old.at("a"));
}

TEST(Weights, AStaleLegacyIndexIsNotReadAgain) {
  const TemporaryFolder folder;
  test::write_bytes(folder / "model.safetensors.fp16.index.json",
                    R"({"weight_map": {"a": "model-00001-of-00001.fp16.safetensors"}})");
  save_safetensors({{"a", at::zeros({1})}}, folder / "model-00001-of-00001.fp16.safetensors");
  EXPECT_EQ(load_weights(folder.path(), "model", {.variant = "fp16"}).at("a").item<float>(), 0);
  save_weights({{"a", at::ones({1})}}, folder.path(), "model", {.variant = "fp16"});
  EXPECT_EQ(load_weights(folder.path(), "model", {.variant = "fp16"}).at("a").item<float>(), 1);
  EXPECT_EQ(list_folder(folder.path()), std::vector<std::string>{"model.fp16.safetensors"});
}

TEST(Weights, LinksMustStayInTheFolderOrTheHubCache) {
  const TemporaryFolder folder;
  create_folders(folder / "blobs");
  create_folders(folder / "snapshots/1/unet");
  create_folders(folder / "elsewhere");
  copy_file(golden_path("io/whole/" + kSingle), folder / "blobs/0123");
  copy_file(golden_path("io/whole/" + kSingle), folder / "elsewhere/file");
  const std::string link = folder / ("snapshots/1/unet/" + kSingle);
  ASSERT_EQ(::symlink("../../../blobs/0123", link.c_str()), 0);
  EXPECT_NO_THROW(load_weights(folder / "snapshots/1/unet"));
  remove_file(link);
  ASSERT_EQ(::symlink("../../../elsewhere/file", link.c_str()), 0);
  expect_throws_with<FileError>([&] { load_weights(folder / "snapshots/1/unet"); },
                                "leads out of the folder");
  // Blobs of another cache, and a blob that is itself a link.
  create_folders(folder / "elsewhere/blobs");
  copy_file(golden_path("io/whole/" + kSingle), folder / "elsewhere/blobs/0123");
  remove_file(link);
  ASSERT_EQ(::symlink("../../../elsewhere/blobs/0123", link.c_str()), 0);
  expect_throws_with<FileError>([&] { load_weights(folder / "snapshots/1/unet"); },
                                "leads out of the folder");
  remove_file(link);
  ASSERT_EQ(::symlink("../elsewhere/file", (folder / "blobs/4567").c_str()), 0);
  ASSERT_EQ(::symlink("../../../blobs/4567", link.c_str()), 0);
  expect_throws_with<FileError>([&] { load_weights(folder / "snapshots/1/unet"); },
                                "leads out of the folder");
  remove_file(link);
  ASSERT_EQ(::symlink("../../../blobs/none", link.c_str()), 0);
  expect_throws_with<FileError>([&] { load_weights(folder / "snapshots/1/unet"); }, "there is no");
}

TEST(Weights, ShardsAreHeldToTheSameLinks) {
  const TemporaryFolder folder;
  create_folders(folder / "model");
  for (const auto& name : list_folder(golden_path("io/shards")))
    copy_file(golden_path("io/shards/" + name), folder / ("model/" + name));
  const std::string shard = "diffusion_pytorch_model-00003-of-00003.safetensors";
  rename_path(folder / ("model/" + shard), folder / "outside.safetensors");
  ASSERT_EQ(::symlink("../outside.safetensors", (folder / ("model/" + shard)).c_str()), 0);
  expect_throws_with<FileError>([&] { load_weights(folder / "model"); }, "leads out of the folder");
  // A link to a file in the same folder is allowed.
  rename_path(folder / "outside.safetensors", folder / "model/third.safetensors");
  remove_file(folder / ("model/" + shard));
  ASSERT_EQ(::symlink("third.safetensors", (folder / ("model/" + shard)).c_str()), 0);
  EXPECT_NO_THROW(load_weights(folder / "model"));
}

}  // namespace
}  // namespace diffusers

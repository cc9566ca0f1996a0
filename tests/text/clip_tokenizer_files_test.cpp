#include <string>
#include <vector>

#include <diffusers/io/files.h>
#include <diffusers/text/clip_tokenizer.h>

#include <gtest/gtest.h>
#include <torch/types.h>

#include "support/log_capture.h"
#include "text/clip_tokenizer_golden.h"

namespace diffusers::test {
namespace {

using Ids = std::vector<int64_t>;

/// A folder with the vocabulary of small_config(), to which tests add other files.
class SmallFolder {
 public:
  SmallFolder() {
    write(
        "vocab.json",
        R"({"a": 0, "b": 1, "a</w>": 2, "b</w>": 3, "ab</w>": 4, "<|startoftext|>": 5, "<|endoftext|>": 6})");
    write("merges.txt", "#version: 0.2\na b</w>\n");
  }
  SmallFolder& write(std::string_view name, std::string_view text) {
    write_bytes(folder_ / name, text);
    return *this;
  }
  CLIPTokenizer load() const { return CLIPTokenizer::from_pretrained(folder_.path()); }
  Ids encode(std::string_view text) const { return load().encode(text, /*add_special_tokens=*/false); }
  const TemporaryFolder& folder() const { return folder_; }

 private:
  TemporaryFolder folder_;
};

TEST(CLIPTokenizerFiles, VocabularyAndMergesAreEnough) {
  const SmallFolder folder;
  EXPECT_EQ(folder.encode("ab a"), (Ids{4, 2}));
  EXPECT_EQ(folder.load().model_max_length(), 77);
  EXPECT_EQ(CLIPTokenizer::from_pretrained(parent_folder(folder.folder().path()),
                                           {.subfolder = base_name(folder.folder().path())})
                .size(),
            7);
}

TEST(CLIPTokenizerFiles, MissingAndMalformedFilesAreNamed) {
  const TemporaryFolder empty;
  expect_throws_with<FileError>([&] { CLIPTokenizer::from_pretrained(empty.path()); }, "vocab.json");
  expect_throws_with<FileError>([&] { CLIPTokenizer::from_pretrained(empty / "none"); }, "no such folder");
  const auto expect_refused = [](std::string_view name, std::string_view text, std::string_view part) {
    SmallFolder folder;
    folder.write(name, text);
    expect_throws_with<FileError>([&] { folder.load(); }, part);
  };
  expect_refused("vocab.json", "[]", "vocab.json");
  expect_refused("merges.txt", "a\n", "merges.txt");
  expect_refused("merges.txt", "a z\n", "no token \"z\"");
  expect_refused("tokenizer.json", "{}", "tokenizer.json");
  expect_refused("tokenizer_config.json", "[]", "tokenizer_config.json");
  expect_refused("tokenizer_config.json", R"({"bos_token": 7})", "bos_token");
  expect_refused("tokenizer_config.json", R"({"eos_token": null})", "eos_token");
  expect_refused("tokenizer_config.json", R"({"unk_token": ""})", "unk_token is empty");
  expect_refused("tokenizer_config.json", R"({"added_tokens_decoder": []})", "added_tokens_decoder");
  expect_refused("tokenizer_config.json", R"({"added_tokens_decoder": {"x": {"content": "y"}}})", "\"x\"");
  expect_refused("tokenizer_config.json", R"({"added_tokens_decoder": {"9": "y"}})", "added_tokens_decoder");
  expect_refused("tokenizer_config.json", R"({"extra_special_tokens": 7})", "extra_special_tokens");
  expect_refused("special_tokens_map.json", "7", "special_tokens_map.json");
  expect_refused("added_tokens.json", R"({"<x>": -7})", "added_tokens.json");
  const auto expect_bad_config = [](std::string_view text, std::string_view part) {
    SmallFolder folder;
    folder.write("tokenizer_config.json", text);
    expect_throws_with<ConfigError>([&] { folder.load(); }, part);
  };
  expect_bad_config(R"({"model_max_length": 0})", "model_max_length is 0");
  expect_bad_config(R"({"model_max_length": "77"})", "model_max_length");
  expect_bad_config(R"({"model_max_length": 7.5})", "model_max_length is 7.5");
  expect_bad_config(R"({"padding_side": "up"})", "padding_side is \"up\"");
  expect_bad_config(R"({"split_special_tokens": 1})", "split_special_tokens");
}

TEST(CLIPTokenizerFiles, ConfigSaysLengthSidesAndTokens) {
  SmallFolder folder;
  folder.write(
      "tokenizer_config.json",
      R"({"model_max_length": 5.0, "padding_side": "left", "truncation_side": "left", "pad_token": "b"})");
  const auto tokenizer = folder.load();
  EXPECT_EQ(tokenizer.model_max_length(), 5);
  EXPECT_EQ(tokenizer.padding_side(), TokenizerSide::kLeft);
  EXPECT_EQ(tokenizer.truncation_side(), TokenizerSide::kLeft);
  EXPECT_EQ(tokenizer.pad_token_id(), 1);
  EXPECT_EQ(tokenizer.encode("ab b bb", false), (Ids{2, 1, 1, 1, 1}))
      << "the pad token is cut out everywhere";
  folder.write("tokenizer_config.json", R"({"model_max_length": 1000000000000000019884624838656})");
  EXPECT_EQ(folder.load().model_max_length(), INT64_MAX);
  folder.write("tokenizer_config.json", R"({"pad_token": null, "eos_token": "<e>"})");
  EXPECT_EQ(folder.load().pad_token(), "");
  EXPECT_EQ(folder.load().eos_token_id(), 7) << "the next free id";
  folder.write("tokenizer_config.json", R"({"split_special_tokens": true})");
  EXPECT_EQ(folder.encode("<|endoftext|>").size(), 13U) << "as text";
}

TEST(CLIPTokenizerFiles, OldFilesOfAddedAndSpecialTokensAreRead) {
  SmallFolder folder;
  const std::string end = R"({"content": "<|endoftext|>", "lstrip": false, "normalized": true})";
  folder.write("special_tokens_map.json",
               "{\"pad_token\": \"b\", \"eos_token\": " + end + ", \"unk_token\": " + end + "}");
  EXPECT_EQ(folder.encode("a <|ENDOFTEXT|> b"), (Ids{2, 6, 1}));
  folder.write("added_tokens.json", R"({"<x>": 9, "<y>": 7})");
  EXPECT_EQ(folder.encode("<x> <y> <X>"), (Ids{8, 7, 8})) << "numbered anew, in the order of their ids";
  folder.write(
      "tokenizer_config.json",
      R"({"added_tokens_decoder": {"8": {"content": "<x>"}, "7": {"content": "<y>", "special": true}}})");
  EXPECT_EQ(folder.encode("<x> <X> <y> b"), (Ids{8, 8, 7, 3})) << "in place of the old files";
}

TEST(CLIPTokenizerFiles, ExtraSpecialTokensAreAdded) {
  for (const std::string key : {"extra_special_tokens", "additional_special_tokens"}) {
    SmallFolder folder;
    folder.write("tokenizer_config.json", "{\"" + key + "\": [\"<z>\"]}");
    EXPECT_EQ(folder.encode("<z>a"), (Ids{7, 2})) << key;
  }
}

TEST(CLIPTokenizerFiles, ReadsWhatPythonSaved) {
  const auto tokenizer = CLIPTokenizer::from_pretrained(golden_path("clip_tokenizer_saved"));
  const auto texts = tokenizer_golden()["with_added"].get<std::vector<std::string>>();
  for (std::size_t i = 0; i < texts.size(); ++i)
    EXPECT_EQ(tokenizer.encode(texts[i]), tokenizer_golden()["added_ids"][i].get<Ids>()) << texts[i];
  EXPECT_EQ(tokenizer.model_max_length(), 77);
}

TEST(CLIPTokenizerFiles, SurviveSavingAndLoading) {
  for (const std::string name : {"clip_tokenizer", "clip_tokenizer_sd15", "clip_tokenizer_sd2"}) {
    auto tokenizer = TokenizerFolder(name).load();
    tokenizer.add_tokens({"<cat-toy>", "Big"});
    tokenizer.add_tokens({{.content = "<R>", .rstrip = true, .special = true}});
    const TemporaryFolder folder;
    tokenizer.save_pretrained(folder / "nested/tokenizer");
    EXPECT_EQ(list_folder(folder / "nested/tokenizer"),
              (std::vector<std::string>{"merges.txt", "special_tokens_map.json", "tokenizer.json",
                                        "tokenizer_config.json", "vocab.json"}));
    const auto again = CLIPTokenizer::from_pretrained(folder.path(), {.subfolder = "nested/tokenizer"});
    remove_file(folder / "nested/tokenizer/tokenizer.json");
    const auto from_old = CLIPTokenizer::from_pretrained(folder / "nested/tokenizer");
    auto texts = golden_prompts();
    for (const std::string text : {"a <cat-toy> Big bigger", "x <R>  y <r>"}) texts.push_back(text);
    for (const auto& text : texts) {
      EXPECT_EQ(again.encode(text), tokenizer.encode(text)) << text;
      EXPECT_EQ(from_old.encode(text), tokenizer.encode(text)) << text;
    }
    for (const auto* loaded : {&again, &from_old}) {
      EXPECT_EQ(loaded->pad_token_id(), tokenizer.pad_token_id());
      EXPECT_EQ(loaded->size(), tokenizer.size());
      EXPECT_EQ(loaded->model_max_length(), 77);
    }
  }
}

TEST(CLIPTokenizerFiles, UnknownKeysOfTheConfigAreSavedAgain) {
  SmallFolder folder;
  folder.write("tokenizer_config.json", R"({"do_lower_case": true, "model_max_length": 7})");
  folder.load().save_pretrained(folder.folder() / "again");
  const auto config = parse_json(read_text_file(folder.folder() / "again/tokenizer_config.json"), "config");
  EXPECT_EQ(config["do_lower_case"], true);
  EXPECT_EQ(config["model_max_length"], 7);
}

TEST(CLIPTokenizerFiles, FilesOfAnotherTokenizerAreRefused) {
  const LogCapture log;
  SmallFolder folder;
  const auto write = [&](const std::string& value) {
    folder.write("tokenizer_config.json", R"({"tokenizer_class": )" + value + "}");
  };
  for (const char* own : {"\"CLIPTokenizer\"", "\"CLIPTokenizerFast\"", "null"}) {
    write(own);
    EXPECT_NO_THROW(folder.load()) << own;
  }
  EXPECT_TRUE(log.messages().empty());
  for (const std::string name : {"GPT2Tokenizer", "RobertaTokenizerFast", "T5Tokenizer"}) {
    write("\"" + name + "\"");
    expect_throws_with<ConfigError>([&] { folder.load(); }, "these are the files of a " + name);
    expect_throws_with<ConfigError>([&] { folder.load(); }, folder.folder().path());
  }
  write("3");
  expect_throws_with<ConfigError>([&] { folder.load(); }, "tokenizer_class is 3");
  write("\"TokenizerOfMine\"");
  folder.load();
  folder.load();
  EXPECT_EQ(log.messages().size(), 1U);
}

}  // namespace
}  // namespace diffusers::test

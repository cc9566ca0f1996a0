#include <string>
#include <vector>

#include <diffusers/core/logging.h>
#include <diffusers/text/clip_tokenizer.h>

#include <gtest/gtest.h>
#include <torch/types.h>

#include "text/clip_tokenizer_golden.h"

namespace diffusers::test {
namespace {

using Ids = std::vector<int64_t>;

Tensor tensor_of(const Json& rows) {
  std::vector<Tensor> tensors;
  for (const auto& row : rows) tensors.push_back(torch::tensor(row.get<Ids>(), torch::kLong));
  return torch::stack(tensors);
}

class CLIPTokenizerGolden : public testing::TestWithParam<std::string> {};

TEST_P(CLIPTokenizerGolden, GivesTheIdsOfTransformers) {
  const auto tokenizer = TokenizerFolder(GetParam()).load();
  const auto prompts = golden_prompts();
  const auto& ids = tokenizer_golden()["ids"][GetParam()];
  ASSERT_GE(prompts.size(), 220U);
  for (std::size_t i = 0; i < prompts.size(); ++i)
    EXPECT_EQ(tokenizer.encode(prompts[i]), ids[i].get<Ids>()) << Json(prompts[i]).dump();
}

TEST_P(CLIPTokenizerGolden, DecodesAsTransformers) {
  const auto tokenizer = TokenizerFolder(GetParam()).load();
  const auto& ids = tokenizer_golden()["ids"][GetParam()];
  const auto& decoded = tokenizer_golden()["decoded"][GetParam()];
  for (std::size_t i = 0; i < ids.size(); ++i) {
    EXPECT_EQ(tokenizer.decode(ids[i].get<Ids>()), decoded[i][0].get<std::string>()) << i;
    EXPECT_EQ(tokenizer.decode(ids[i].get<Ids>(), {.skip_special_tokens = true}),
              decoded[i][1].get<std::string>())
        << i;
  }
}

TEST_P(CLIPTokenizerGolden, PadsAndCutsAsTransformers) {
  const auto tokenizer = TokenizerFolder(GetParam()).load();
  const auto texts = tokenizer_golden()["texts"].get<std::vector<std::string>>();
  const auto expect_call = [&](const char* name, const TokenizeOptions& options,
                               const std::vector<std::string>& some) {
    const auto& expected = tokenizer_golden()["calls"][GetParam()][name];
    const auto result = tokenizer(some, options);
    expect_equal(result.input_ids, tensor_of(expected["input_ids"]), name);
    expect_equal(result.attention_mask, tensor_of(expected["attention_mask"]), name);
  };
  expect_call("longest", {.padding = Padding::kLongest}, texts);
  expect_call("max_length", {.padding = Padding::kMaxLength, .truncation = true}, texts);
  expect_call("max_length_20", {.padding = Padding::kMaxLength, .truncation = true, .max_length = 20}, texts);
  expect_call("only_max_length", {.max_length = 3}, {texts[0], texts[1], texts[2]});
  expect_call("multiple", {.padding = Padding::kLongest, .pad_to_multiple_of = 8}, texts);
  expect_call("left", {.padding = Padding::kLongest, .padding_side = TokenizerSide::kLeft}, texts);
  expect_call("no_special", {.add_special_tokens = false, .padding = Padding::kLongest}, texts);
  expect_call("no_room", {.padding = Padding::kLongest, .truncation = true, .max_length = 2}, texts);
}

INSTANTIATE_TEST_SUITE_P(Folders, CLIPTokenizerGolden,
                         testing::Values("clip_tokenizer", "clip_tokenizer_sd15", "clip_tokenizer_sd2"),
                         [](const auto& info) { return info.param; });

TEST(CLIPTokenizer, GivesTheTokensOfTransformers) {
  const auto tokenizer = TokenizerFolder().load();
  const auto prompts = golden_prompts();
  for (std::size_t i = 0; i < prompts.size(); ++i)
    EXPECT_EQ(tokenizer.tokenize(prompts[i]), tokenizer_golden()["tokens"][i].get<std::vector<std::string>>())
        << i;
}

TEST(CLIPTokenizer, AddedTokensAreCutOutAsInTransformers) {
  auto tokenizer = TokenizerFolder().load();
  auto copy = tokenizer;
  EXPECT_EQ(copy.add_tokens({"<cat-toy>", "Big"}), 2);
  EXPECT_EQ(copy.add_tokens({{.content = "Sp", .single_word = true},
                             {.content = "<L>", .lstrip = true},
                             {.content = "<R>", .rstrip = true},
                             {.content = "<LR>", .lstrip = true, .rstrip = true},
                             {.content = "RAW", .normalized = false},
                             {.content = "<S>", .special = true}}),
            6);
  EXPECT_EQ(copy.add_tokens({"cat", "e\u0301", "a  b"}), 3);
  EXPECT_EQ(copy.add_tokens({"cat", "<cat-toy>", ""}), 0);
  EXPECT_EQ(copy.vocab_size(), tokenizer_golden()["size"][0].get<int64_t>());
  EXPECT_EQ(copy.size(), tokenizer_golden()["size"][1].get<int64_t>());
  EXPECT_EQ(tokenizer.size(), tokenizer.vocab_size()) << "copies are independent";
  const auto texts = tokenizer_golden()["with_added"].get<std::vector<std::string>>();
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const auto ids = copy.encode(texts[i]);
    EXPECT_EQ(ids, tokenizer_golden()["added_ids"][i].get<Ids>()) << texts[i];
    EXPECT_EQ(copy.decode(ids), tokenizer_golden()["added_decoded"][i][0].get<std::string>()) << texts[i];
    EXPECT_EQ(copy.decode(ids, {.skip_special_tokens = true}),
              tokenizer_golden()["added_decoded"][i][1].get<std::string>())
        << texts[i];
  }
}

TEST(CLIPTokenizer, TakesOneTextOrSeveral) {
  const CLIPTokenizer tokenizer(small_config());
  const auto expected = torch::tensor({{5, 4, 2, 6}}, torch::kLong);
  expect_equal(tokenizer("ab a").input_ids, expected, "literal");
  expect_equal(tokenizer(std::string("ab a")).input_ids, expected, "string");
  expect_equal(tokenizer(std::string_view("ab a")).input_ids, expected, "view");
  expect_equal(tokenizer({"ab a"}).input_ids, expected, "list of one");
  expect_equal(tokenizer({"ab a", "a ab"}).input_ids,
               torch::tensor({{5, 4, 2, 6}, {5, 2, 4, 6}}, torch::kLong), "two");
  expect_equal(tokenizer(std::vector<std::string>{"ab a"}).input_ids, expected, "vector");
  EXPECT_EQ(tokenizer(std::vector<std::string>{}).input_ids.sizes(), (at::IntArrayRef{0, 0}));
}

TEST(CLIPTokenizer, TextsOfUnequalLengthInOneTensorAreRefused) {
  const CLIPTokenizer tokenizer(small_config());
  expect_throws_with<TextError>([&] { tokenizer({"ab", "a b"}); }, "text 0 has 3 tokens and text 1 has 4");
  const TokenizeOptions no_truncation{.padding = Padding::kMaxLength, .max_length = 3};
  expect_throws_with<TextError>([&] { tokenizer({"ab", "a b"}, no_truncation); }, "text 1 has 4");
}

TEST(CLIPTokenizer, OptionsThatCannotWorkAreRefused) {
  const CLIPTokenizer tokenizer(small_config());
  const auto expect_refused = [&](const TokenizeOptions& options, std::string_view part) {
    expect_throws_with<ConfigError>([&] { tokenizer("ab", options); }, part);
  };
  expect_refused({.max_length = 1}, "max_length is 1");
  expect_refused({.truncation = true, .max_length = -1}, "max_length is -1");
  expect_refused({.padding = Padding::kLongest, .pad_to_multiple_of = 0}, "pad_to_multiple_of is 0");
  expect_refused({.padding = Padding::kLongest, .truncation = true, .max_length = 6, .pad_to_multiple_of = 4},
                 "max_length is 6");
  auto config = small_config();
  config.pad_token = {};
  const CLIPTokenizer no_pad(config);
  expect_throws_with<ConfigError>([&] { no_pad("ab", {.padding = Padding::kLongest}); }, "pad_token");
  config.eos_token = {};
  expect_throws_with<ConfigError>([&] { CLIPTokenizer{config}; }, "eos_token");
  config = small_config();
  config.merges.emplace_back("a", "z");
  expect_throws_with<ConfigError>([&] { CLIPTokenizer{config}; }, "no token \"z\"");
}

TEST(CLIPTokenizer, TakesOptionsAsStrings) {
  const CLIPTokenizer tokenizer;
  const Tensor by_string = tokenizer("", {.padding = "max_length", .padding_side = "left"}).input_ids;
  const Tensor by_enumerator =
      tokenizer("", {.padding = Padding::kMaxLength, .padding_side = TokenizerSide::kLeft}).input_ids;
  EXPECT_EQ(by_string.size(1), 77);
  EXPECT_TRUE(by_string.equal(by_enumerator));
  expect_throws_with<ConfigError>(
      [&] { tokenizer("", {.padding = "max"}); },
      R"(padding is "max", expected one of: "longest" "max_length" "do_not_pad")");
}

TEST(CLIPTokenizer, CutsAndPadsAtTheLeftIfAsked) {
  auto config = small_config();
  config.padding_side = TokenizerSide::kLeft;
  config.truncation_side = TokenizerSide::kLeft;
  const CLIPTokenizer tokenizer(config);
  const auto result =
      tokenizer({"ab b a", "a"}, {.padding = Padding::kLongest, .truncation = true, .max_length = 4});
  expect_equal(result.input_ids, torch::tensor({{5, 3, 2, 6}, {6, 5, 2, 6}}, torch::kLong));
  expect_equal(result.attention_mask, torch::tensor({{1, 1, 1, 1}, {0, 1, 1, 1}}, torch::kLong));
}

TEST(CLIPTokenizer, WithoutALimitNothingIsCut) {
  auto config = small_config();
  config.model_max_length = std::nullopt;
  const CLIPTokenizer tokenizer(config);
  EXPECT_EQ(tokenizer.model_max_length(), INT64_MAX);
  const auto level = get_verbosity();
  set_verbosity(LogLevel::kOff);
  EXPECT_EQ(tokenizer("ab", {.padding = Padding::kMaxLength, .truncation = true}).input_ids.size(1), 3);
  set_verbosity(level);
}

TEST(CLIPTokenizer, TextsThatAreNotUtf8AreRefused) {
  const CLIPTokenizer tokenizer(small_config());
  expect_throws_with<TextError>([&] { tokenizer("a\xff"); }, "position 1");
  expect_throws_with<TextError>([&] { tokenizer("<|endoftext|>\xed\xa0\x80"); }, "not UTF-8");
  auto copy = tokenizer;
  expect_throws_with<TextError>([&] { copy.add_tokens({"\xff"}); }, "not UTF-8");
}

TEST(CLIPTokenizer, DecodesTensorsAndPassesOverIdsWithoutToken) {
  const CLIPTokenizer tokenizer(small_config());
  EXPECT_EQ(tokenizer.decode(torch::tensor({5, 4, 99, -1, 2, 6}), {.skip_special_tokens = true}), "ab a");
  EXPECT_EQ(tokenizer.decode(torch::tensor(4)), "ab");
  EXPECT_EQ(tokenizer.batch_decode(torch::tensor({{4, 2}, {0, 3}})),
            (std::vector<std::string>{"ab a", "ab"}));
  expect_throws_with<TensorError>([&] { tokenizer.decode(torch::tensor({0.5})); }, "integers");
  expect_throws_with<TensorError>([&] { tokenizer.batch_decode(torch::tensor({0})); }, "[B, L]");
}

TEST(CLIPTokenizer, KnowsItsTokens) {
  const CLIPTokenizer tokenizer(small_config());
  EXPECT_EQ(tokenizer.bos_token_id(), 5);
  EXPECT_EQ(tokenizer.eos_token_id(), 6);
  EXPECT_EQ(tokenizer.pad_token_id(), 6);
  EXPECT_EQ(tokenizer.unk_token(), "<|endoftext|>");
  EXPECT_EQ(tokenizer.convert_tokens_to_ids("ab</w>"), 4);
  EXPECT_EQ(tokenizer.convert_tokens_to_ids("zzz"), 6);
  EXPECT_EQ(tokenizer.convert_ids_to_tokens(4), "ab</w>");
  EXPECT_EQ(tokenizer.convert_ids_to_tokens(7), std::nullopt);
  EXPECT_EQ(tokenizer.encode("abc"), (Ids{5, 0, 1, 6, 6})) << "c is unknown";
  EXPECT_EQ(tokenizer.model_max_length(), 77);
  EXPECT_EQ(CLIPTokenizer().size(), 2) << "the special tokens alone";
}

}  // namespace
}  // namespace diffusers::test

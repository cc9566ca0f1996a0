#include "text/vocabulary.h"

#include <string>

#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers::test {
namespace {

using namespace text;

void expect_no_vocabulary(std::string_view json, std::string_view part) {
  expect_throws_with<FileError>([&] { parse_vocabulary(json, "v.json"); }, part);
  expect_throws_with<FileError>([&] { parse_vocabulary(json, "v.json"); }, "v.json");
}

void expect_no_merges(std::string_view text, std::string_view part) {
  expect_throws_with<FileError>([&] { parse_merges(text, "m.txt"); }, part);
  expect_throws_with<FileError>([&] { parse_merges(text, "m.txt"); }, "m.txt");
}

TEST(Vocabulary, IsReadFromJson) {
  const auto tokens = parse_vocabulary("{\"a\": 0, \"\\u0120\": 7, \"b</w>\": 2147483646}", "v.json");
  EXPECT_EQ(tokens, (VocabularyMap{{"a", 0}, {"\u0120", 7}, {"b</w>", 2147483646}}));
}

TEST(Vocabulary, HostileJsonIsRefused) {
  expect_no_vocabulary("", "not valid JSON");
  expect_no_vocabulary("{}", "expected a JSON object");
  expect_no_vocabulary("[\"a\"]", "expected a JSON object");
  expect_no_vocabulary("{\"a\": 0, \"b\": 0}", "id 0 occurs twice");
  expect_no_vocabulary("{\"a\": 0, \"a\": 1}", "occurs twice");
  expect_no_vocabulary("{\"a\": -1}", "expected an integer in [0,");
  expect_no_vocabulary("{\"a\": 1.0}", "expected an integer in [0,");
  expect_no_vocabulary("{\"a\": 1e3}", "expected an integer in [0,");
  expect_no_vocabulary("{\"a\": true}", "expected an integer in [0,");
  expect_no_vocabulary("{\"a\": \"1\"}", "expected an integer in [0,");
  expect_no_vocabulary("{\"a\": null}", "expected an integer in [0,");
  expect_no_vocabulary("{\"a\": {\"b\": 1}}", "expected an integer in [0,");
  expect_no_vocabulary("{\"a\": 2147483647}", "expected an integer in [0,");
  expect_no_vocabulary("{\"a\": 18446744073709551615}", "expected an integer in [0,");
  expect_no_vocabulary("{\"a\": 99999999999999999999999}", "expected an integer in [0,");
  expect_no_vocabulary("\xef\xbb\xbf{\"a\": 0}", "byte-order mark");
  expect_no_vocabulary(std::string_view("{\"a\": 0}\0", 9), "NUL");
  expect_no_vocabulary("{\"a\xff\": 0}", "not valid JSON");
  expect_no_vocabulary("{\"\\ud800\": 0}", "not valid JSON");
  expect_no_vocabulary(std::string(200, '['), "nested deeper");
  expect_no_vocabulary(std::string(kMaxVocabularyBytes + 1, ' '), "at most");
}

TEST(Vocabulary, MergesAreLinesOfTwoTokens) {
  const MergeList expected{{"a", "b</w>"}, {"#", "#"}};
  EXPECT_EQ(parse_merges("#version: 0.2\na b</w>\n# #\n", "m.txt"), expected);
  EXPECT_EQ(parse_merges("a b</w>\n# #", "m.txt"), expected);
  EXPECT_EQ(parse_merges("#version: 0.2\r\na b</w>\r\n# #\r\n", "m.txt"), expected);
  EXPECT_EQ(parse_merges("", "m.txt"), MergeList{});
}

TEST(Vocabulary, HostileMergesAreRefused) {
  expect_no_merges("a b\n\nc d\n", "line 2");
  expect_no_merges("a\n", "expected two tokens");
  expect_no_merges("a \n", "expected two tokens");
  expect_no_merges(" a\n", "expected two tokens");
  expect_no_merges("a b c\n", "expected two tokens");
  expect_no_merges("a  b\n", "expected two tokens");
  expect_no_merges("a \xff\n", "not UTF-8");
  expect_no_merges(std::string_view("a b\0\n", 5), "NUL");
  expect_no_merges("\xef\xbb\xbf#version\n", "byte-order mark");
  expect_no_merges(std::string(kMaxVocabularyBytes + 1, 'a'), "at most");
}

TEST(Vocabulary, WhatStandsInItsPlaceIsNamed) {
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 524657\n";
  expect_no_vocabulary(pointer, "this is a Git LFS pointer");
  expect_no_merges(pointer, "this is a Git LFS pointer");
  expect_throws_with<FileError>([&] { parse_tokenizer_json(pointer, "t.json"); },
                                "this is a Git LFS pointer");
  expect_no_merges("<!DOCTYPE html>\n<html lang=\"en\">\n", "this is a web page");
  expect_no_merges(std::string_view("PK\x03\x04\0\0", 6), "as torch.save writes it");
  const std::string lines = "#version: 0.2\ni n\n<<<<<<< HEAD\nt h\n=======\na n\n>>>>>>> theirs\nr e\n";
  expect_no_merges(lines, "a merge conflict, the first in line 3");
  // Tokens may be equal to the markers.
  EXPECT_EQ(parse_merges("< <\n<<<<<<< =======\n>>>>>>> >\n", "m.txt").size(), 3U);
}

std::string tokenizer_json(std::string_view model, std::string_view added = "[]") {
  return "{\"added_tokens\": " + std::string(added) + ", \"model\": " + std::string(model) + "}";
}

TEST(Vocabulary, TokenizerJsonHoldsModelAndAddedTokens) {
  const auto file = parse_tokenizer_json(
      tokenizer_json(R"({"type": "BPE", "end_of_word_suffix": "</w>", "vocab": {"a": 0, "b": 1, "ab": 2},
                         "merges": ["a b", ["b", "a"]]})",
                     R"([{"id": 3, "content": "<x>", "special": true}, {"id": 4, "content": "y"}])"),
      "t.json");
  EXPECT_EQ(file.vocabulary.merges, (MergeList{{"a", "b"}, {"b", "a"}}));
  EXPECT_EQ(file.vocabulary.tokens.size(), 3U);
  EXPECT_EQ(file.added_tokens.at(3).content, "<x>");
  EXPECT_FALSE(file.added_tokens.at(3).normalized);
  EXPECT_TRUE(file.added_tokens.at(4).normalized);
}

TEST(Vocabulary, HostileTokenizerJsonIsRefused) {
  const auto expect_refused = [](std::string_view json, std::string_view part) {
    expect_throws_with<FileError>([&] { parse_tokenizer_json(json, "t.json"); }, part);
  };
  const std::string vocab = R"("vocab": {"a": 0}, "merges": [])";
  expect_refused("[]", "expected a JSON object");
  expect_refused("{}", "\"model\"");
  expect_refused(tokenizer_json("{}"), "expected a JSON object from tokens to ids");
  expect_refused(tokenizer_json(R"({"vocab": [["a", 0]], "merges": []})"),
                 "expected a JSON object from tokens");
  expect_refused(tokenizer_json(R"({"vocab": {"a": 0}})"), "model.merges is no list");
  expect_refused(tokenizer_json(R"({"vocab": {"a": 0}, "merges": [["a"]]})"), "model.merges[0]");
  expect_refused(tokenizer_json(R"({"vocab": {"a": 0}, "merges": [["a", 1]]})"), "model.merges[0]");
  expect_refused(tokenizer_json(R"({"vocab": {"a": 0}, "merges": ["a"]})"), "model.merges[0]");
  expect_refused(tokenizer_json(R"({"type": "Unigram", )" + vocab + "}"), "model.type");
  expect_refused(tokenizer_json(R"({"end_of_word_suffix": "##", )" + vocab + "}"),
                 "model.end_of_word_suffix");
  expect_refused(tokenizer_json("{" + vocab + "}", "7"), "added_tokens is no list");
  expect_refused(tokenizer_json("{" + vocab + "}", "[7]"), "added_tokens[0]");
  expect_refused(tokenizer_json("{" + vocab + "}", "[{\"id\": 1}]"), "added_tokens[0]");
  expect_refused(tokenizer_json("{" + vocab + "}", "[{\"id\": -1, \"content\": \"x\"}]"), "added_tokens[0]");
  expect_refused(tokenizer_json("{" + vocab + "}", R"([{"id": 1, "content": "x", "lstrip": 1}])"), "lstrip");
  expect_refused(
      tokenizer_json("{" + vocab + "}", R"([{"id": 1, "content": "x"}, {"id": 1, "content": "y"}])"),
      "occurs twice");
}

}  // namespace
}  // namespace diffusers::test

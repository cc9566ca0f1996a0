#include "core/foreign_content.h"

#include <string>

#include <diffusers/core/error.h>

#include <gtest/gtest.h>

#include "core/json.h"
#include "support/golden.h"

namespace diffusers {
namespace {

const std::string kLfsPointer =
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 335304388\n";

TEST(ForeignContent, IsNamedWithWhatToDo) {
  const std::pair<std::string, const char*> cases[] = {
      {"", "the file is empty"},
      {kLfsPointer, "Git LFS pointer"},
      {"<!DOCTYPE html>\n<html lang=\"en\">", "web page"},
      {"\n  <HTML><body>403</body>", "web page"},
      {"\xef\xbb\xbf<!doctype html>", "web page"},
      {"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>", "web page"},
      {std::string("PK\x03\x04\0\0\x08\x08", 8), "zip archive, as torch.save writes it"},
      {"\x80\x02\x8a\x0al\xfc\x9c\x46\xf9 j\xa8P\x19.", "this is a pickle"},
      {"\x80\x04\x95\x10", "this is a pickle"},
      {std::string("\x1f\x8b\x08\0\0\0\0\0", 8), "gunzip"},
      {"GGUF\x03", "GGUF"},
      {"{\n<<<<<<< HEAD\n  \"a\": 1\n=======\n  \"a\": 2\n>>>>>>> theirs\n}\n", "the first in line 2"},
  };
  for (const auto& [bytes, part] : cases) {
    const auto meaning = describe_foreign_content(bytes);
    ASSERT_TRUE(meaning.has_value()) << testing::PrintToString(bytes);
    EXPECT_NE(meaning->find(part), std::string::npos) << *meaning;
  }
  EXPECT_NE(describe_foreign_content(kLfsPointer)->find("git lfs pull"), std::string::npos);
  EXPECT_NE(describe_foreign_content("PK\x03\x04")->find("safe_serialization=True"), std::string::npos);
}

TEST(ForeignContent, IsNothingElse) {
  for (const std::string& bytes :
       {std::string("{}"), std::string("#version: 0.2\ni n\n"), std::string("version 2"), std::string("<"),
        std::string("\x80"), std::string("PK"), std::string("a <<<<<<< b\n=======\n"),
        // A safetensors file with a header of 640 bytes begins with the same bytes as a pickle.
        std::string("\x80\x02\0\0\0\0\0\0{\"a\":", 13), std::string(600, '\n')})
    EXPECT_FALSE(describe_foreign_content(bytes).has_value()) << testing::PrintToString(bytes);
}

TEST(ForeignContent, IsReportedByTheJsonParser) {
  using test::expect_throws_with;
  const auto expect = [](const std::string& text, const char* part) {
    expect_throws_with<FileError>([&] { parse_json(text, "unet/config.json"); },
                                  std::string("unet/config.json: not valid JSON: ") + part);
  };
  expect("", "the file is empty");
  expect(kLfsPointer, "this is a Git LFS pointer");
  expect("<!DOCTYPE html><html></html>", "this is a web page");
  expect(std::string("PK\x03\x04\0", 5), "this is a zip archive");
  expect("\x80\x02}q\x01.", "this is a pickle");
  expect("{\"in\": NaN,\n<<<<<<< HEAD\n  \"a\": 1\n=======\n  \"a\": 2\n>>>>>>> theirs\n}\n",
         "the file holds the markers of a merge conflict, the first in line 2");
  expect_throws_with<FileError>([] { parse_json("{", "c"); }, "c: not valid JSON");
  EXPECT_EQ(parse_json(R"({"a": "<<<<<<< b\n=======\n>>>>>>>"})", "c").size(), 1U);
}

}  // namespace
}  // namespace diffusers

#include "data/tar_samples.h"

#include <string>
#include <vector>

#include <diffusers/core/error.h>

#include <gtest/gtest.h>

#include "support/golden.h"
#include "support/tar_bytes.h"

namespace diffusers {
namespace {

using test::expect_throws_with;
using test::tar_archive;
using test::TarEntry;
using Entries = std::vector<TarEntry>;

TarReader reader_of(const std::string& bytes) { return TarReader(bytes, "s.tar"); }

/// Returns "KEY image captions label" of each sample.
std::vector<std::string> read_all(const std::string& bytes, const TarFields& fields) {
  std::vector<std::string> found;
  TarSamples samples(reader_of(bytes), fields);
  while (auto sample = samples.next()) {
    found.push_back(sample->key + " " + sample->image);
    for (const std::string& caption : sample->captions) found.back() += " " + caption;
    if (sample->label) found.back() += " " + std::to_string(*sample->label);
  }
  return found;
}

TEST(TarSamples, MembersOfOneKeyAreASample) {
  const std::string bytes = tar_archive(Entries{{.name = "__meta__/x.json", .data = "{}"},
                                                {.name = "README", .data = "no extension"},
                                                {.name = ".hidden.jpg", .data = "hidden"},
                                                {.name = "notes.md", .data = "other"},
                                                {.name = "a.b/x.jpg", .data = "1"},
                                                {.name = "a.b/x.txt", .data = "one"},
                                                {.name = "a.b/x.seg.png", .data = "a mask"},
                                                {.name = "a.b/x.cls", .data = " 7\n"},
                                                {.name = "y.txt", .data = "two"},
                                                {.name = "y.cls", .data = "0"},
                                                {.name = "y.JPEG", .data = "2"}});
  const TarFields fields{.caption = {.is_member = true}, .label = {.is_member = true}};
  EXPECT_EQ(read_all(bytes, fields), (std::vector<std::string>{"a.b/x 1 one 7", "y 2 two 0"}));
  EXPECT_EQ(read_all(bytes, {}), (std::vector<std::string>{"a.b/x 1", "y 2"}));
  const TarFields found = find_tar_fields(reader_of(bytes), "", "");
  EXPECT_TRUE(found.caption.is_member && found.label.is_member && !found.need_json());
  TarSamples skipping(reader_of(bytes), fields);
  EXPECT_TRUE(skipping.skip());
  EXPECT_EQ(skipping.next()->key, "y");
  EXPECT_FALSE(skipping.skip());
  EXPECT_FALSE(skipping.next());
}

TEST(TarSamples, JsonHasCaptionsAndLabels) {
  const std::string bytes = tar_archive(Entries{
      {.name = "1.png", .data = "i"},
      {.name = "1.json", .data = R"({"caption": "a", "label": 3, "more": null, "texts": ["b", "c"]})"}});
  const TarFields found = find_tar_fields(reader_of(bytes), "", "");
  EXPECT_EQ(found.caption.column, "caption");
  EXPECT_EQ(found.label.column, "label");
  EXPECT_EQ(read_all(bytes, found), (std::vector<std::string>{"1 i a 3"}));
  EXPECT_EQ(read_all(bytes, {.caption = {.column = "texts"}}), (std::vector<std::string>{"1 i b c"}));
  // A text file comes before the JSON, unless a column is given.
  const std::string both = tar_archive(Entries{{.name = "1.png", .data = "i"},
                                               {.name = "1.json", .data = R"({"text": "a"})"},
                                               {.name = "1.txt", .data = "t"}});
  EXPECT_EQ(read_all(both, find_tar_fields(reader_of(both), "", "")), (std::vector<std::string>{"1 i t"}));
  EXPECT_EQ(read_all(both, find_tar_fields(reader_of(both), "text", "")),
            (std::vector<std::string>{"1 i a"}));
}

TEST(TarSamples, WrongSamplesAreRefused) {
  const TarFields both{.caption = {.is_member = true}, .label = {.is_member = true}};
  const auto refuse = [](const Entries& entries, const TarFields& fields, std::string_view message) {
    expect_throws_with<FileError>([&] { read_all(tar_archive(entries), fields); }, message);
  };
  const TarEntry image{.name = "a.jpg", .data = "i"};
  const TarEntry text{.name = "a.txt", .data = "t"};
  refuse({text}, {}, "s.tar: sample \"a\" has no member .jpg, .jpeg or .png");
  refuse({image, text}, both, "s.tar: sample \"a\" has no member .cls");
  refuse({image, {.name = "a.cls", .data = "1"}}, both, "s.tar: sample \"a\" has no member .txt");
  refuse({image}, {.label = {.column = "label"}}, "s.tar: sample \"a\" has no member .json");
  refuse({image, {.name = "a.png"}}, {}, "member \"a.png\": sample \"a\" has two images");
  refuse({image, text, text}, {}, "member \"a.txt\": sample \"a\" has two members of this kind");
  refuse({{.name = "a.webp"}}, {}, "s.tar: member \"a.webp\" is a WebP image, expected PNG or JPEG");
  for (const char* label : {"", "-1", "1.0", "cat", "2147483648", "1 2"})
    refuse({image, text, {.name = "a.cls", .data = label}}, both, "s.tar: member \"a.cls\" is ");
  refuse({image, {.name = "a.txt", .data = "\xff"}}, {.caption = {.is_member = true}},
         "s.tar: member \"a.txt\" is not UTF-8");
  refuse({image, {.name = "a.txt", .data = std::string((1 << 20) + 1, 't')}},
         {.caption = {.is_member = true}},
         "s.tar: member \"a.txt\" has 1048577 bytes, expected at most 1048576");

  const auto refuse_json = [&](const char* json, std::string_view message) {
    refuse({image, {.name = "a.json", .data = json}}, {.caption = {.column = "c"}, .label = {.column = "l"}},
           message);
  };
  refuse_json("{", "s.tar: member \"a.json\"");
  refuse_json("[]", "s.tar: member \"a.json\" is [], expected an object");
  refuse_json(R"({"l": 1})", "s.tar: member \"a.json\" has no \"c\"");
  refuse_json(R"({"c": null, "l": 1})", "has no \"c\"");
  refuse_json(R"({"c": [], "l": 1})", "\"c\" is [], expected a string or a list");
  refuse_json(R"({"c": ["a", 1], "l": 1})", "expected a string or a list");
  refuse_json(R"({"c": "a", "l": -1})", "\"l\" is -1, expected a whole number");
  refuse_json(R"({"c": "a", "l": 2147483648})", "expected a whole number from 0 to 2147483647");
  expect_throws_with<FileError>(
      [] { find_tar_fields(reader_of(tar_archive(Entries{{.name = "x"}})), "", ""); },
      "s.tar: the shard has no samples");
}

}  // namespace
}  // namespace diffusers

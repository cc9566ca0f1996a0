#include "data/metadata_reader.h"

#include <string>
#include <vector>

#include <diffusers/core/error.h>

#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_throws_with;
using Cells = std::vector<std::string>;

/// Formats each row as "line: a | b".
template <class Read>
Cells rows_of_text(const Read& read, std::string_view text, const Cells& columns = {"a", "b"}) {
  Cells rows;
  read(text, "x", [&](const MetadataRow& row) {
    std::string line = std::to_string(row.line()) + ":";
    for (const std::string& column : columns) line += " " + (row.has(column) ? row.text(column) : "-");
    rows.push_back(line);
  });
  return rows;
}

Cells csv(std::string_view text) { return rows_of_text(read_metadata_csv, text); }
Cells jsonl(std::string_view text) { return rows_of_text(read_metadata_jsonl, text); }

TEST(MetadataReader, CsvHasTheRowsOfPythons) {
  EXPECT_EQ(csv("a,b\n1,2\n3,4\n"), (Cells{"2: 1 2", "3: 3 4"}));
  EXPECT_EQ(csv("a,b\n1,2\n3,4"), (Cells{"2: 1 2", "3: 3 4"}));
  EXPECT_EQ(csv("b,c,a\n1,2,3\n"), Cells{"2: 3 1"});
  EXPECT_EQ(csv("a,b\r\n1,2\r\n\r\n3,4\r\n"), (Cells{"2: 1 2", "4: 3 4"}));
  EXPECT_EQ(csv("a,b\r1,2\r3,4\r"), (Cells{"2: 1 2", "3: 3 4"}));
  EXPECT_EQ(csv("\xef\xbb\xbf"
                "a,b\n1,2\n"),
            Cells{"2: 1 2"});
  EXPECT_EQ(csv("\n\na,b\n\n1,2\n\n"), Cells{"5: 1 2"});
  EXPECT_EQ(csv("\"a\",\"b\"\n\"1, one\",\"say \"\"two\"\"\"\n"), Cells{"2: 1, one say \"two\""});
  EXPECT_EQ(csv("a,b\n\"1\nand\r\nmore\",2\n3,4\n"), (Cells{"2: 1\nand\r\nmore 2", "5: 3 4"}));
  EXPECT_EQ(csv("a,b\n,\n \"1,\"\"\"\"\n"), (Cells{"2:  ", "3:  \"1 \""}));
  EXPECT_EQ(csv("a,b\n\xc3\xa4,\xf0\x9f\x98\x80\n"), Cells{"2: \xc3\xa4 \xf0\x9f\x98\x80"});
  EXPECT_EQ(rows_of_text(read_metadata_csv, "a\n\"\"\n\n1\n", {"a"}), (Cells{"2: ", "4: 1"}));
  EXPECT_TRUE(csv("a,b\n").empty());
  EXPECT_TRUE(csv("\n\n").empty());
}

TEST(MetadataReader, CsvThatIsWrongIsNamed) {
  expect_throws_with<FileError>([] { csv("a,b\n1,2\n1\n"); }, "x: line 3: 1 fields, expected 2");
  expect_throws_with<FileError>([] { csv("a,b\n1,2,3\n"); }, "x: line 2: 3 fields, expected 2");
  expect_throws_with<FileError>([] { csv("a,b\n1,\"2\n3\n4"); }, "x: line 2: a quoted field does not end");
  expect_throws_with<FileError>([] { csv("a,b\n1,\"2\"3\n"); }, "x: line 2: text follows a quoted field");
  expect_throws_with<FileError>([] { csv("a,b,a\n1,2,3\n"); }, "x: line 1: column \"a\" occurs twice");
  expect_throws_with<FileError>([] { csv("a,b\n\xff,2\n"); }, "x: line 2: the text is not UTF-8 (byte 0xff)");
  expect_throws_with<FileError>([] { csv(std::string_view("a,b\n\0,2\n", 8)); }, "(byte 0x00)");
  for (const std::string_view wrong :
       {"\xc0\xaf", "\xe0\x80\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc3", "\x80"})
    EXPECT_THROW(csv(std::string("a,b\n1,") + std::string(wrong)), FileError);
  expect_throws_with<FileError>([] { csv(""); }, "the file is empty");
  expect_throws_with<FileError>([] { csv("version https://git-lfs.github.com/spec/v1\n"); },
                                "Git LFS pointer");
}

TEST(MetadataReader, JsonLinesAreObjects) {
  EXPECT_EQ(jsonl("{\"a\": \"1\", \"b\": \"2\"}\n{\"b\": \"4\", \"a\": \"3\"}"), (Cells{"1: 1 2", "2: 3 4"}));
  EXPECT_EQ(jsonl("\xef\xbb\xbf{\"a\": \"1\"}\r\n\r\n  \n{\"a\": null, \"b\": \"2\"}\r\n"),
            (Cells{"1: 1 -", "4: - 2"}));
  EXPECT_TRUE(jsonl("").empty());
  expect_throws_with<FileError>([] { jsonl("{\"a\": \"1\"}\n\n{\"a\": \"1\", \"b"); },
                                "x: line 3: not valid JSON");
  expect_throws_with<FileError>([] { jsonl("[{\"a\": \"1\"}]\n"); },
                                "x: line 1 is [{\"a\":\"1\"}], expected a JSON object");
  expect_throws_with<FileError>([] { jsonl("{\"a\": \"1\", \"a\": \"2\"}\n"); },
                                "x: line 1: JSON key \"a\" occurs twice");
  expect_throws_with<FileError>([] { jsonl("{\"a\": 1}\n"); },
                                "x: line 1: column \"a\" is 1, expected a string");
  expect_throws_with<FileError>([] { jsonl("<!DOCTYPE html>\n"); }, "web page");
  expect_throws_with<FileError>([] { jsonl("version https://git-lfs.github.com/spec/v1\n"); },
                                "Git LFS pointer");
}

TEST(MetadataReader, CellsAreTextsOrLists) {
  read_metadata_jsonl(
      "{\"a\": [\"1\", \"2\"], \"b\": \"3\", \"c\": [], \"d\": [\"1\", 2]}", "x", [](const MetadataRow& row) {
        EXPECT_EQ(row.texts("a"), (Cells{"1", "2"}));
        EXPECT_EQ(row.texts("b"), Cells{"3"});
        expect_throws_with<FileError>([&] { row.texts("c"); },
                                      "column \"c\" is [], expected a string or a list of one or more");
        expect_throws_with<FileError>([&] { row.texts("d"); }, "column \"d\" is [\"1\",2]");
        expect_throws_with<FileError>([&] { row.texts("e"); }, "x: line 1: column \"e\" is missing");
        expect_throws_with<FileError>([&] { row.text("a"); },
                                      "column \"a\" is [\"1\",\"2\"], expected a string");
      });
}

}  // namespace
}  // namespace diffusers

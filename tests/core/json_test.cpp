#include "core/json.h"

#include <cmath>
#include <string>
#include <vector>

#include <diffusers/core/error.h>

#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers {
namespace {

TEST(Json, NonFiniteNumbersSurviveAsPythonWritesThem) {
  const Json value = parse_json(R"({"a": -Infinity, "b": [NaN, Infinity], "c": "NaN, \"Infinity"})", "text");
  EXPECT_TRUE(std::isinf(value["a"].get<double>()));
  EXPECT_TRUE(std::isnan(value["b"][0].get<double>()));
  EXPECT_EQ(value["c"], "NaN, \"Infinity");
  EXPECT_EQ(dump_json(value),
            "{\n  \"a\": -Infinity,\n  \"b\": [\n    NaN,\n    Infinity\n  ],\n  \"c\": \"NaN, "
            "\\\"Infinity\"\n}\n");
}

TEST(Json, StringsThatLookLikeTheNumbersAreStrings) {
  for (const std::string text :
       {"\"NaN\"", "\"\\u007f:NaN\"", "\"\x7f:Infinity\"", "\"a\\\\\"", "\"\\\"NaN\\\"\""}) {
    const Json value = parse_json("[NaN, " + text + ", -Infinity]", "text");
    EXPECT_TRUE(std::isnan(value[0].get<double>()));
    EXPECT_TRUE(value[1].is_string()) << text;
    EXPECT_EQ(value[2].get<double>(), -HUGE_VAL);
    EXPECT_EQ(parse_json(dump_json(value), "again")[1], value[1]);
  }
}

TEST(Json, IsWrittenAsPythonWritesIt) {
  const Json value =
      parse_json(R"({"b": [], "a": {}, "\u00e9": [1, [2.5, true], null, {"x": "\n"}]})", "text");
  EXPECT_EQ(dump_json(value), R"({
  "a": {},
  "b": [],
  "\u00e9": [
    1,
    [
      2.5,
      true
    ],
    null,
    {
      "x": "\n"
    }
  ]
}
)");
}

TEST(Json, EveryFaultIsAFileErrorThatNamesTheFile) {
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  std::string many = "[0";
  for (std::size_t i = 0; i < kMaxJsonValues; ++i) many += ",0";
  struct Case {
    std::string text;
    std::string message;
  };
  const std::vector<Case> cases{
      {"", "not valid JSON"},
      {" ", "not valid JSON"},
      {"{\"a\": 1", "not valid JSON"},
      {"{\"a\": 1}}", "not valid JSON"},
      {"{'a': 1}", "not valid JSON"},
      {"[1,]", "not valid JSON"},
      {"[01]", "not valid JSON"},
      {"[1e400]", "not valid JSON"},
      {"[-NaN]", "not valid JSON"},
      {"[NaNNaN]", "not valid JSON"},
      {"[nan]", "not valid JSON"},
      {"{NaN: 1}", "a number for a key"},
      {"[\"\\ud800\"]", "not valid JSON"},
      {"[\"\xff\"]", "not valid JSON"},
      {"[\"\n\"]", "not valid JSON"},
      {"/* */ {}", "not valid JSON"},
      {std::string("{}\0", 3), "NUL byte"},
      {std::string("{\"a\0\": 1}", 9), "NUL byte"},
      {"\xef\xbb\xbf{}", "byte-order mark"},
      {R"({"a": 1, "a": 2})", "key \"a\" occurs twice"},
      {R"({"a": 1, "\u0061": 2})", "key \"a\" occurs twice"},
      {R"([{"b": {"a": 1, "a": NaN}}])", "occurs twice"},
      {nested(129), "deeper than 128"},
      {std::string(100000, '['), "deeper than 128"},
      {many + "]", "more than 500000 values"},
      {std::string(kMaxJsonBytes + 1, ' '), "at most 16777216"},
  };
  for (const auto& [text, message] : cases) {
    SCOPED_TRACE(text.substr(0, 40));
    test::expect_throws_with<FileError>([&, &json = text] { parse_json(json, "folder/config.json"); },
                                        message);
    test::expect_throws_with<FileError>([&, &json = text] { parse_json(json, "folder/config.json"); },
                                        "folder/config.json: ");
  }
  EXPECT_NO_THROW(parse_json(R"([{"a": 1}, {"a": 2}])", "text"));
  EXPECT_NO_THROW(parse_json(nested(128), "text"));
}

TEST(Json, MessagesStayShort) {
  for (const std::string& text :
       {"\"" + std::string(1 << 20, 'x'), "{\"" + std::string(1 << 20, '\x7f') + "\": 1, \"b\" 2}",
        "\"\x01" + std::string(1 << 20, 'x') + "\""}) {
    try {
      parse_json(text, "text");
      ADD_FAILURE() << "nothing was thrown";
    } catch (const FileError& error) {
      EXPECT_LT(std::string(error.what()).size(), 500U);
    }
  }
  EXPECT_EQ(json_excerpt(Json::parse(R"({"a": ["\u00e9"]})")), R"({"a":["\u00e9"]})");
  EXPECT_LT(json_excerpt(std::string(1 << 20, 'x')).size(), 200U);
  EXPECT_EQ(json_excerpt(-HUGE_VAL), "-Infinity");
}

}  // namespace
}  // namespace diffusers

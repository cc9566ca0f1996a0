#include "core/json.h"

#include <cmath>
#include <string>

#include <diffusers/core/error.h>

#include <gtest/gtest.h>

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

TEST(Json, HostileTextIsRefused) {
  EXPECT_THROW(parse_json(R"({"a": 1, "a": 2})", "text"), FileError);
  EXPECT_THROW(parse_json(std::string("{}\0", 3), "text"), FileError);
  EXPECT_THROW(parse_json("\xef\xbb\xbf{}", "text"), FileError);
  EXPECT_THROW(parse_json(std::string(100000, '['), "text"), FileError);
  EXPECT_THROW(parse_json("{\"a\": 1", "text"), FileError);
  EXPECT_THROW(parse_json("", "text"), FileError);
  EXPECT_NO_THROW(parse_json(R"([{"a": 1}, {"a": 2}])", "text"));
}

}  // namespace
}  // namespace diffusers

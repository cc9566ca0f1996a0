#include "core/config_fields.h"

#include <array>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/core/config_overrides.h>
#include <diffusers/core/config_visitor.h>
#include <diffusers/core/error.h>

#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers {

enum class Vegetable { kLeek, kRedOnion };

template <>
struct EnumNames<Vegetable> {
  static constexpr std::string_view kKey = "vegetable";
  static constexpr std::array<std::pair<Vegetable, std::string_view>, 2> kTable{
      {{Vegetable::kLeek, "leek"}, {Vegetable::kRedOnion, "red_onion"}}};
};

namespace {

using test::expect_throws_with;

struct VisitedConfig {
  bool flag = true;
  int64_t count = 3;
  double rate = 0.5;
  std::string name = "x";
  std::optional<bool> maybe_flag;
  std::optional<int64_t> maybe_count = 4;
  std::optional<double> maybe_rate;
  std::optional<std::string> maybe_name;
  std::vector<int64_t> counts;
  std::vector<double> rates = {1.5};
  std::vector<std::string> names;
  OneOrMany<int64_t> seeds = {1, 2};
  Vegetable plain = Vegetable::kLeek;
  EnumChoice<Vegetable> choice = "red_onion";
  std::optional<EnumChoice<Vegetable>> maybe_choice;
  std::vector<int64_t> list;
  bool has_function = false;
};

void visit_fields(VisitedConfig& config, ConfigVisitor& visit) {
  visit("flag", config.flag);
  visit("count", config.count);
  visit("rate", config.rate);
  visit("name", config.name);
  visit("maybe_flag", config.maybe_flag);
  visit("maybe_count", config.maybe_count);
  visit("maybe_rate", config.maybe_rate);
  visit("maybe_name", config.maybe_name);
  visit("counts", config.counts);
  visit("rates", config.rates);
  visit("names", config.names);
  visit("seeds", config.seeds);
  visit("plain", config.plain);
  visit("choice", config.choice);
  visit("maybe_choice", config.maybe_choice);
  visit.list("list", config.list);
  visit.program_only("function", config.has_function);
}

config_fields::VisitConfig visitor_of(VisitedConfig& config) {
  return [&config](ConfigVisitor& visitor) { visit_fields(config, visitor); };
}

TEST(ConfigFields, AreListedInOrder) {
  VisitedConfig config;
  const std::vector<std::string> keys = config_fields::keys(visitor_of(config));
  ASSERT_EQ(keys.size(), 17u);
  EXPECT_EQ(keys.front(), "flag");
  EXPECT_EQ(keys[13], "choice");
  EXPECT_EQ(keys.back(), "function");
}

TEST(ConfigFields, AreWrittenAsPythonWritesThem) {
  VisitedConfig config;
  const Json json = config_fields::to_json(visitor_of(config));
  const Json expected = parse_json(
      R"({"flag": true, "count": 3, "rate": 0.5, "name": "x", "maybe_flag": null, "maybe_count": 4,
          "maybe_rate": null, "maybe_name": null, "counts": null, "rates": [1.5], "names": null, "seeds": [1, 2],
          "plain": "leek", "choice": "red_onion", "maybe_choice": null, "list": [], "function": null})",
      "expected");
  EXPECT_EQ(json, expected);
}

TEST(ConfigFields, AreReadAndTheRestIsReturned) {
  VisitedConfig config;
  const Json json = parse_json(
      R"({"flag": false, "count": 7, "rate": 1, "name": "y", "maybe_flag": true, "maybe_count": null,
          "maybe_rate": 2.5, "maybe_name": "z", "counts": [1], "rates": null, "names": ["a", "b"], "seeds": 5,
          "plain": "red_onion", "choice": "leek", "maybe_choice": "leek", "list": [4], "function": null,
          "unknown": 1})",
      "given");
  const Json rest = config_fields::from_json(json, visitor_of(config), "VisitedConfig");
  EXPECT_EQ(rest, Json({{"unknown", 1}}));
  Json again = config_fields::to_json(visitor_of(config));
  again["unknown"] = 1;
  EXPECT_EQ(again, json);
}

TEST(ConfigFields, ThatDoNotFitAreNamed) {
  const auto read = [](const char* text,
                       config_fields::NullBool null_bool = config_fields::NullBool::kRefused) {
    VisitedConfig config;
    config_fields::from_json(parse_json(text, "text"), visitor_of(config), "VisitedConfig", null_bool);
    return config;
  };
  expect_throws_with<ConfigError>(
      [&] { read(R"({"choice": "carrot"})"); },
      R"(VisitedConfig: choice is "carrot", expected one of: "leek" "red_onion")");
  expect_throws_with<ConfigError>([&] { read(R"({"plain": 3})"); }, "plain is 3, expected a string");
  expect_throws_with<ConfigError>([&] { read(R"({"maybe_choice": 3})"); }, "maybe_choice is 3");
  expect_throws_with<ConfigError>([&] { read(R"({"count": 1.5})"); }, "count is 1.5, expected an integer");
  expect_throws_with<ConfigError>([&] { read(R"({"function": "f"})"); }, R"(function is "f", expected null)");
  expect_throws_with<ConfigError>([&] { read(R"({"flag": null})"); }, "flag is null");
  expect_throws_with<ConfigError>([&] { read("[]"); }, "VisitedConfig: expected a JSON object");
  EXPECT_FALSE(read(R"({"flag": null})", config_fields::NullBool::kFalse).flag);
}

TEST(ConfigFields, ThatOnlyAProgramSetsCannotBeWritten) {
  VisitedConfig config;
  config.has_function = true;
  expect_throws_with<ConfigError>([&] { config_fields::to_json(visitor_of(config)); }, "function is set");
}

TEST(ConfigOverrides, AreTheTextOfAnObject) {
  EXPECT_TRUE(ConfigOverrides().empty());
  const ConfigOverrides none = {};
  EXPECT_TRUE(none.empty());
  const ConfigOverrides overrides{{"spacing", "trailing"},
                                  {"count", 3},
                                  {"rate", 0.1},
                                  {"flag", false},
                                  {"none", nullptr},
                                  {"choice", Vegetable::kRedOnion},
                                  {"infinite", std::numeric_limits<double>::infinity()},
                                  {"betas", std::vector<double>{0.5, 1}},
                                  {"steps", std::vector<int64_t>{1, 2}},
                                  {"quoted", std::string("a \"b\"")}};
  const Json json = parse_json(overrides.json(), "overrides");
  EXPECT_EQ(json["spacing"], "trailing");
  EXPECT_EQ(json["count"], 3);
  EXPECT_EQ(json["rate"], 0.1);
  EXPECT_EQ(json["flag"], false);
  EXPECT_TRUE(json["none"].is_null());
  EXPECT_EQ(json["choice"], "red_onion");
  EXPECT_EQ(json["infinite"], std::numeric_limits<double>::infinity());
  EXPECT_EQ(json["betas"], Json({0.5, 1}));
  EXPECT_EQ(json["steps"], Json({1, 2}));
  EXPECT_EQ(json["quoted"], "a \"b\"");
  EXPECT_EQ(ConfigOverrides(R"({"a": 1})").json(), R"({"a": 1})");
  expect_throws_with<ConfigError>([] { ConfigValue("\xff"); }, "an override cannot be written as JSON");
}

}  // namespace
}  // namespace diffusers

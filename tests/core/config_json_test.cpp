#include "core/config_json.h"

#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/core/enum_names.h>
#include <diffusers/core/error.h>
#include <diffusers/core/one_or_many.h>

#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers {

enum class Fruit { kApple, kRedPear };

template <>
struct EnumNames<Fruit> {
  static constexpr std::array<std::pair<Fruit, std::string_view>, 2> kTable{
      {{Fruit::kApple, "apple"}, {Fruit::kRedPear, "red_pear"}}};
};

namespace {

using config_json::fields_from_json;
using config_json::fields_to_json;
using test::expect_throws_with;

struct SampleConfig {
  bool flag = true;
  int64_t count = 3;
  double rate = 0.1;
  std::string name = "x";
  Fruit fruit = Fruit::kApple;
  std::vector<double> betas;
  std::optional<int64_t> maybe;
  std::optional<Fruit> maybe_fruit = Fruit::kRedPear;
  OneOrMany<int64_t> heads = 8;
  OneOrMany<bool> switches = {true, false};
};

template <class Visitor>
void visit_fields(SampleConfig& config, Visitor&& visit) {
  visit("flag", config.flag);
  visit("count", config.count);
  visit("rate", config.rate);
  visit("name", config.name);
  visit("fruit", config.fruit);
  visit("betas", config.betas);
  visit("maybe", config.maybe);
  visit("maybe_fruit", config.maybe_fruit);
  visit("heads", config.heads);
  visit("switches", config.switches);
}

TEST(ConfigJson, DefaultsAreWrittenAsPythonWritesThem) {
  EXPECT_EQ(fields_to_json(SampleConfig{}),
            Json::parse(R"({"flag": true, "count": 3, "rate": 0.1, "name": "x",
      "fruit": "apple", "betas": null, "maybe": null, "maybe_fruit": "red_pear", "heads": 8, "switches": [true, false]})"));
}

TEST(ConfigJson, EveryKindOfFieldRoundTrips) {
  SampleConfig config;
  config.flag = false;
  config.count = -5;
  config.rate = -std::numeric_limits<double>::infinity();
  config.name = "\u00e9\"\n";
  config.fruit = Fruit::kRedPear;
  config.betas = {0.1, 1e-300, 1.0 / 3};
  config.maybe = 1LL << 62;
  config.maybe_fruit.reset();
  config.heads = {5};
  config.switches = false;
  SampleConfig again;
  const Json rest = fields_from_json(parse_json(dump_json(fields_to_json(config)), "text"), again, "text");
  EXPECT_TRUE(rest.empty());
  EXPECT_EQ(again.flag, config.flag);
  EXPECT_EQ(again.count, config.count);
  EXPECT_EQ(again.rate, config.rate);
  EXPECT_EQ(again.name, config.name);
  EXPECT_EQ(again.fruit, config.fruit);
  EXPECT_EQ(again.betas, config.betas);
  EXPECT_EQ(again.maybe, config.maybe);
  EXPECT_EQ(again.maybe_fruit, config.maybe_fruit);
  EXPECT_EQ(again.heads, config.heads);
  EXPECT_TRUE(again.heads.is_list());
  EXPECT_EQ(again.switches, config.switches);
}

TEST(ConfigJson, MissingKeysKeepDefaultsNullIsNoneAndUnknownKeysComeBack) {
  SampleConfig config;
  const Json rest = fields_from_json(
      Json::parse(R"({"_class_name": "A", "extra": [1], "heads": null, "maybe": 4.0, "betas": [1, 2.5]})"),
      config, "c");
  EXPECT_EQ(rest, Json::parse(R"({"_class_name": "A", "extra": [1]})"));
  EXPECT_EQ(config.count, 3);
  EXPECT_TRUE(config.heads.empty());
  EXPECT_EQ(config.maybe, 4);
  EXPECT_EQ(config.betas, (std::vector<double>{1, 2.5}));
}

TEST(ConfigJson, WrongTypesNameTheFileTheKeyAndTheValue) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {R"({"flag": 1})", "flag is 1, expected true or false"},
      {R"({"flag": null})", "flag is null"},
      {R"({"count": 1.5})", "count is 1.5, expected an integer"},
      {R"({"count": true})", "count is true"},
      {R"({"count": "1"})", "count is \"1\""},
      {R"({"count": 1e300})", "count is 1e+300"},
      {R"({"count": 18446744073709551615})", "too large"},
      {R"({"rate": "x"})", "rate is \"x\", expected a number"},
      {R"({"name": 1})", "name is 1, expected a string"},
      {R"({"fruit": "plum"})", "fruit is \"plum\", expected one of: \"apple\" \"red_pear\""},
      {R"({"fruit": 0})", "fruit is 0"},
      {R"({"maybe_fruit": "plum"})", "maybe_fruit is \"plum\""},
      {R"({"betas": 1})", "betas is 1, expected a list"},
      {R"({"betas": [1, "x"]})", "betas is \"x\""},
      {R"({"heads": [1, 2.5]})", "heads is 2.5"},
      {R"({"heads": {}})", "heads is {}"},
      {R"([1])", "expected a JSON object"},
  };
  for (const auto& [text, message] : cases) {
    SampleConfig config;
    expect_throws_with<ConfigError>(
        [&, &json = text] { fields_from_json(Json::parse(json), config, "config.json"); }, message);
    expect_throws_with<ConfigError>(
        [&, &json = text] { fields_from_json(Json::parse(json), config, "config.json"); }, "config.json: ");
  }
}

TEST(EnumNames, GoBothWays) {
  EXPECT_EQ(enum_name(Fruit::kRedPear), "red_pear");
  EXPECT_EQ(enum_from_name<Fruit>("apple", "fruit"), Fruit::kApple);
  EXPECT_EQ(enum_name(static_cast<Fruit>(9)), "unknown");
  expect_throws_with<ConfigError>([] { enum_from_name<Fruit>("Apple", "fruit"); }, "fruit is \"Apple\"");
}

TEST(OneOrMany, TakesBothAndExpands) {
  const OneOrMany<int64_t> one = 8;
  const OneOrMany<int64_t> many = {5, 10, 20};
  const OneOrMany<int64_t> none;
  EXPECT_FALSE(one.is_list());
  EXPECT_TRUE(many.is_list());
  EXPECT_TRUE(none.empty());
  EXPECT_EQ(one.expand(3), (std::vector<int64_t>{8, 8, 8}));
  EXPECT_EQ(many.expand(2), (std::vector<int64_t>{5, 10, 20}));
  EXPECT_TRUE(none.expand(2).empty());
  EXPECT_NE(one, OneOrMany<int64_t>({8}));
  EXPECT_EQ(many.value(), 5);
}

}  // namespace
}  // namespace diffusers

#include "core/option_effects.h"

#include <array>
#include <cstdint>

#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers {

// Not in an anonymous namespace: config_json finds visit_fields by its argument.
struct SwitchedConfig {
  bool is_on = false;
  double strength = 0.5;
};

template <class Visitor>
void visit_fields(SwitchedConfig& config, Visitor&& visit) {
  visit("is_on", config.is_on);
  visit("strength", config.strength);
}

namespace {

constexpr std::array<OptionEffect<SwitchedConfig>, 2> kSwitchedEffects{{
    {"is_on"},
    {"strength", [](const auto& c) { return c.is_on; }, "is_on"},
}};

TEST(OptionEffects, AChangedOptionWithoutEffectIsRefused) {
  const auto check = [](const SwitchedConfig& config) {
    return [=] { require_options_with_effect(config, kSwitchedEffects); };
  };
  EXPECT_NO_THROW(check({})());
  EXPECT_NO_THROW(check({.is_on = true})());
  EXPECT_NO_THROW(check({.is_on = true, .strength = 2.0})());
  test::expect_throws_with<ConfigError>(
      check({.strength = 2.0}),
      "strength is 2.0, but has an effect only with is_on; leave it at its default, 0.5");
}

}  // namespace
}  // namespace diffusers

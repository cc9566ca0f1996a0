// Every option of the objective and of the timestep sampler has an effect or is refused.

#include "training/objective/option_fields.h"

#include <map>
#include <set>
#include <string>

#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/objective.h>

#include <gtest/gtest.h>

#include "core/config_json.h"
#include "core/json.h"
#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_throws_with;

template <class Options>
Options options_from(const Json& fields) {
  Options options;
  const Json rest = config_json::fields_from_json(fields, options, "the test");
  EXPECT_TRUE(rest.empty()) << rest.dump();
  return options;
}

/// A changed value of an option, and the other options that it requires to have an effect.
struct Effect {
  Json changed, with;
};

/// @param use constructs the object that takes the options
template <class Options, class Use>
void expect_effects(const std::map<std::string, Effect>& dependent, const std::set<std::string>& independent,
                    const Use& use) {
  const Json defaults = config_json::fields_to_json(Options{});
  EXPECT_EQ(defaults.size(), dependent.size() + independent.size());
  for (const auto& field : defaults.items())
    EXPECT_TRUE(dependent.contains(field.key()) || independent.contains(field.key())) << field.key();
  for (const auto& [key, effect] : dependent) {
    SCOPED_TRACE(key);
    Json fields = {{key, effect.changed}};
    expect_throws_with<ConfigError>([&] { use(options_from<Options>(fields)); },
                                    key + " is " + effect.changed.dump());
    fields.update(effect.with);
    EXPECT_NO_THROW(use(options_from<Options>(fields)));
  }
}

TEST(DiffusionLossOptions, AChangedOptionWithoutEffectIsRefused) {
  const Json p2 = {{"weighting", "p2"}};
  const Json huber = {{"loss_type", "huber"}};
  const auto use = [](const DiffusionLossOptions& options) {
    // vlb_weight requires only a learned variance.
    const bool is_learned = options.vlb_weight && options.loss_type == LossType::kL1;
    const DDPMScheduler scheduler(
        {.variance_type = is_learned ? VarianceType::kLearnedRange : VarianceType::kFixedSmall});
    DiffusionObjective(scheduler, options);
  };
  expect_effects<DiffusionLossOptions>(
      {{"huber_schedule", {"snr", huber}},
       {"huber_c", {0.25, {{"loss_type", "smooth_l1"}}}},
       {"p2_gamma", {0.5, p2}},
       {"p2_k", {2.0, p2}},
       {"sigma_data", {0.75, {{"weighting", "edm"}}}},
       {"vlb_weight", {1.5, {{"loss_type", "l1"}}}}},
      {"loss_type", "snr_gamma", "reduction", "weighting", "l_simple_weight", "original_elbo_weight"}, use);
  // snr_gamma without a weighting selects min_snr. With another weighting it has no effect.
  for (const char* weighting : {"p2", "edm", "debiased", "truncated_snr"})
    expect_throws_with<ConfigError>(
        [&] {
          use(options_from<DiffusionLossOptions>({{"snr_gamma", 4.5}, {"weighting", weighting}}));
        },
        "snr_gamma is 4.5");
  for (const char* weighting : {"none", "min_snr", "soft_min_snr"})
    EXPECT_NO_THROW(use(options_from<DiffusionLossOptions>({{"snr_gamma", 4.5}, {"weighting", weighting}})));
}

TEST(TimestepSamplingOptions, AChangedOptionWithoutEffectIsRefused) {
  const Json logit_normal = {{"timestep_sampling", "logit_normal"}};
  const Json range = {{"timestep_bias_strategy", "range"}};
  const Json earlier = {{"timestep_bias_strategy", "earlier"}};
  const auto use = [](const TimestepSamplingOptions& options) { TimestepSampler(1000, options); };
  expect_effects<TimestepSamplingOptions>(
      {{"logit_mean", {0.5, logit_normal}},
       {"logit_std", {0.5, logit_normal}},
       {"mode_scale", {0.5, {{"timestep_sampling", "mode"}}}},
       {"timestep_bias_multiplier", {2.0, earlier}},
       {"timestep_bias_begin", {10, range}},
       {"timestep_bias_end", {900, range}},
       {"timestep_bias_portion", {0.5, earlier}}},
      {"timestep_sampling", "timestep_bias_strategy", "continuous_timesteps"}, use);
  expect_throws_with<ConfigError>([&] { use({.bias = TimestepBias::kRange, .bias_portion = 0.5}); },
                                  "timestep_bias_portion is 0.5");
}

TEST(DiffusionLossOptions, TakeThePythonStrings) {
  const DiffusionLossOptions options{.loss_type = "huber", .huber_schedule = "snr", .weighting = "p2"};
  EXPECT_EQ(options.loss_type, LossType::kHuber);
  EXPECT_EQ(options.huber_schedule, HuberSchedule::kSnr);
  EXPECT_EQ(options.weighting, LossWeighting::kP2);
  expect_throws_with<ConfigError>([] { DiffusionLossOptions{.weighting = "p3"}; },
                                  "weighting is \"p3\", expected one of: \"none\"");
  const TimestepSamplingOptions sampling{.strategy = "mode", .bias = "none"};
  EXPECT_EQ(sampling.strategy, TimestepSampling::kMode);
}

}  // namespace
}  // namespace diffusers

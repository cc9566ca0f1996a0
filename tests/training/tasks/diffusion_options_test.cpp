// Every option of a DiffusionTask has an effect or is refused, with the flags of the training.

#include "training/tasks/diffusion_options.h"

#include <functional>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/schedulers/flow_match_euler_discrete_scheduler.h>
#include <diffusers/training/trainer.h>

#include <gtest/gtest.h>

#include "core/config_json.h"
#include "support/golden.h"
#include "training/quick_training.h"

namespace diffusers {
namespace {

using test::expect_throws_with;
using test::LabelledNet;
using test::TinyNet;

struct TaskCase {
  const char* key;
  std::function<void(DiffusionTaskOptions&, TrainingConfig&)> change;
  const char* message;
  std::function<void(DiffusionTaskOptions&, TrainingConfig&)> enable;
};

void configure_task(const TaskCase& one, bool is_enabled, bool is_flow) {
  DiffusionTaskOptions options;
  TrainingConfig config;
  one.change(options, config);
  if (is_enabled) one.enable(options, config);
  LabelledNet model;
  model->facts.num_class_embeds = 11;
  const FlowMatchEulerDiscreteScheduler flow;
  const DDPMScheduler ddpm({.variance_type = is_enabled && options.vlb_weight ? VarianceType::kLearned
                                                                              : VarianceType::kFixedSmall});
  const Scheduler& scheduler = is_flow ? static_cast<const Scheduler&>(flow) : ddpm;
  DiffusionTask(model, scheduler, options).configure(config);
}

TEST(DiffusionTaskOptions, AChangedOptionWithoutEffectIsRefused) {
  using O = DiffusionTaskOptions;
  using C = TrainingConfig;
  const std::vector<TaskCase> cases{
      {"p2_gamma", [](O& o, C&) { o.p2_gamma = 0.5; }, "p2_gamma is 0.5",
       [](O& o, C&) { o.weighting = "p2"; }},
      {"p2_k", [](O& o, C&) { o.p2_k = 2; }, "p2_k is 2", [](O& o, C&) { o.weighting = "p2"; }},
      {"sigma_data", [](O& o, C&) { o.sigma_data = 0.75; }, "sigma_data is 0.75",
       [](O& o, C&) { o.weighting = "edm"; }},
      {"vlb_weight", [](O& o, C&) { o.vlb_weight = 1.5; }, "vlb_weight is 1.5", [](O&, C&) {}},
      {"continuous_timesteps", [](O& o, C&) { o.continuous_timesteps = true; },
       "continuous_timesteps is true", [](O&, C&) {}},
      {"pyramid_noise_discount", [](O& o, C&) { o.pyramid_noise_discount = 0.5; },
       "pyramid_noise_discount is 0.5", [](O& o, C&) { o.pyramid_noise_iterations = 2; }},
      {"logvar_init", [](O& o, C&) { o.logvar_init = 0.5; }, "logvar_init is 0.5",
       [](O& o, C&) { o.learned_log_variance = "table"; }},
      {"class_dropout_prob",
       [](O& o, C&) {
         o.class_dropout_prob = 0.25;
         o.class_conditional = false;
       },
       "class_dropout_prob is 0.25", [](O& o, C&) { o.class_conditional = true; }},
      {"class_conditional",
       [](O& o, C&) {
         o.class_conditional = true;
         o.conditioning = [](const Batch&) { return Conditioning(); };
       },
       "class_conditional is true", [](O& o, C&) { o.conditioning = {}; }},
      {"snr_gamma",
       [](O& o, C& c) {
         c.snr_gamma = 4.5;
         o.weighting = "p2";
       },
       "snr_gamma is 4.5", [](O& o, C&) { o.weighting = "soft_min_snr"; }},
      {"huber_c", [](O&, C& c) { c.huber_c = 0.25; }, "huber_c is 0.25",
       [](O&, C& c) { c.loss_type = "huber"; }},
      {"huber_schedule", [](O&, C& c) { c.huber_schedule = "snr"; }, "huber_schedule is \"snr\"",
       [](O&, C& c) { c.loss_type = "smooth_l1"; }},
      {"logit_mean", [](O&, C& c) { c.logit_mean = 0.5; }, "logit_mean is 0.5",
       [](O& o, C&) { o.timestep_sampling = "logit_normal"; }},
      {"logit_std", [](O&, C& c) { c.logit_std = 0.5; }, "logit_std is 0.5",
       [](O& o, C&) { o.timestep_sampling = "logit_normal"; }},
      {"mode_scale", [](O&, C& c) { c.mode_scale = 0.5; }, "mode_scale is 0.5",
       [](O& o, C&) { o.timestep_sampling = "mode"; }},
      {"timestep_bias_multiplier", [](O&, C& c) { c.timestep_bias_multiplier = 0.5; },
       "timestep_bias_multiplier is 0.5", [](O&, C& c) { c.timestep_bias_strategy = "later"; }},
      {"timestep_bias_begin", [](O&, C& c) { c.timestep_bias_begin = 5; }, "timestep_bias_begin is 5",
       [](O&, C& c) { c.timestep_bias_strategy = "range"; }},
      {"timestep_bias_end", [](O&, C& c) { c.timestep_bias_end = 5; }, "timestep_bias_end is 5",
       [](O&, C& c) { c.timestep_bias_strategy = "range"; }},
      {"timestep_bias_portion", [](O&, C& c) { c.timestep_bias_portion = 0.5; },
       "timestep_bias_portion is 0.5", [](O&, C& c) { c.timestep_bias_strategy = "earlier"; }},
  };
  std::set<std::string> covered{"weighting",
                                "l_simple_weight",
                                "original_elbo_weight",
                                "timestep_sampling",
                                "pyramid_noise_iterations",
                                "learned_log_variance"};  // these always have an effect
  for (const TaskCase& one : cases) {
    SCOPED_TRACE(one.key);
    covered.insert(one.key);
    expect_throws_with<ConfigError>([&] { configure_task(one, false, false); }, one.message);
    EXPECT_NO_THROW(configure_task(one, true, std::string_view(one.key) == "continuous_timesteps"));
  }
  const Json fields = config_json::fields_to_json(O());
  for (const auto& field : fields.items()) EXPECT_TRUE(covered.contains(field.key())) << field.key();
}

TEST(DiffusionTaskOptions, NameWhatIsOutOfRange) {
  const auto making = [](const DiffusionTaskOptions& options) {
    return [=] { DiffusionTask(TinyNet(), DDPMScheduler(), options).configure({}); };
  };
  expect_throws_with<ConfigError>(making({.weighting = "p2", .p2_k = 0.0}), "p2_k is 0");
  expect_throws_with<ConfigError>(making({.l_simple_weight = 0.0}), "nothing to minimise");
  expect_throws_with<ConfigError>(making({.pyramid_noise_iterations = -1}), "pyramid_noise_iterations is -1");
  expect_throws_with<ConfigError>(making({.pyramid_noise_iterations = 2, .pyramid_noise_discount = 1.5}),
                                  "pyramid_noise_discount is 1.5");
  expect_throws_with<ConfigError>(
      making({.learned_log_variance = "table", .logvar_init = std::numeric_limits<double>::infinity()}),
      "logvar_init is inf");
  expect_throws_with<ConfigError>(making({.class_dropout_prob = -0.5}), "class_dropout_prob is -0.5");
  const FlowMatchEulerDiscreteScheduler flow;
  expect_throws_with<ConfigError>(
      [&] { DiffusionTask(TinyNet(), flow, {.timestep_sampling = "loss_second_moment"}).configure({}); },
      "timestep_sampling is \"loss_second_moment\"");
  expect_throws_with<ConfigError>(
      [&] { DiffusionTask(TinyNet(), flow).configure({.loss_type = "huber", .huber_schedule = "snr"}); },
      "huber_schedule is \"snr\"");
}

}  // namespace
}  // namespace diffusers

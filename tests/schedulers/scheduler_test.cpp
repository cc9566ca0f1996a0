#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/schedulers/dpmsolver_multistep_scheduler.h>
#include <diffusers/schedulers/euler_discrete_scheduler.h>
#include <diffusers/schedulers/flow_match_euler_discrete_scheduler.h>
#include <diffusers/schedulers/lcm_scheduler.h>
#include <diffusers/schedulers/pndm_scheduler.h>
#include <diffusers/schedulers/score_sde_ve_scheduler.h>
#include <diffusers/schedulers/tcd_scheduler.h>
#include <diffusers/schedulers/unclip_scheduler.h>

#include "support.h"

namespace diffusers::test {
namespace {

TEST(Scheduler, IsMadeByClassName) {
  const auto scheduler = Scheduler::from_config(R"({"_class_name": "DDIMScheduler", "beta_end": 0.01})");
  EXPECT_EQ(scheduler->class_name(), "DDIMScheduler");
  EXPECT_EQ(dynamic_cast<DDIMScheduler&>(*scheduler).config().beta_end, 0.01);
  EXPECT_EQ(scheduler->prediction_type_name(), "epsilon");
  EXPECT_EQ(scheduler->num_train_timesteps(), 1000);
  expect_throws_with<ConfigError>([] { Scheduler::from_config(R"({"_class_name": "MagicScheduler"})"); },
                                  "DDPMScheduler, DDIMScheduler");
  expect_throws_with<ConfigError>([] { Scheduler::from_config("{}"); }, "_class_name");
  expect_throws_with<FileError>([] { Scheduler::from_pretrained("/nonexistent/folder"); },
                                "/nonexistent/folder");
}

TEST(Scheduler, FoldersAreFoundAsPythonFindsThem) {
  const TemporaryFolder folder;
  DDPMScheduler({.num_train_timesteps = 10}).save_pretrained(folder / "a/scheduler");
  EXPECT_EQ(DDPMScheduler::from_pretrained(folder / "a", {.subfolder = "scheduler"}).num_train_timesteps(),
            10);
  EXPECT_EQ(
      DDPMScheduler::from_pretrained(folder / "a/scheduler", {.subfolder = "missing"}).num_train_timesteps(),
      10);
  EXPECT_EQ(
      DDPMScheduler::from_pretrained(folder / "a/scheduler/scheduler_config.json").num_train_timesteps(), 10);
}

TEST(Scheduler, WhatAClassLacksThrows) {
  const DDPMScheduler scheduler;
  expect_throws_with<Error>([&] { scheduler.sigmas(); }, "DDPMScheduler has no sigmas");
  expect_throws_with<Error>([&] { scheduler.scale_noise({}, {}, {}); }, "scale_noise");
}

TEST(Scheduler, TellsWhatTrainingAndPipelinesNeed) {
  const DDPMScheduler ddpm({.variance_type = "learned_range", .prediction_type = "v_prediction"});
  EXPECT_EQ(ddpm.prediction_type(), PredictionType::kVPrediction);
  EXPECT_EQ(ddpm.prediction_type_name(), "v_prediction");
  EXPECT_EQ(ddpm.variance_type(), VarianceType::kLearnedRange);
  EXPECT_EQ(ddpm.forward_process(), ForwardProcessType::kVariancePreserving);
  ASSERT_NE(ddpm.noise_schedule(), nullptr);
  expect_equal(ddpm.noise_schedule()->betas(), ddpm.betas());
  EXPECT_EQ(ddpm.flow_shift(), std::nullopt);
  EXPECT_EQ(ddpm.steps_offset(), 0);
  EXPECT_EQ(ddpm.clip_sample(), true);
  EXPECT_FALSE(ddpm.takes_eta());
  EXPECT_FALSE(ddpm.has_scale_noise());
  EXPECT_TRUE(DDIMScheduler().takes_eta());
  EXPECT_EQ(DDIMScheduler().variance_type(), std::nullopt);

  const FlowMatchEulerDiscreteScheduler flow({.shift = 3.0, .invert_sigmas = true});
  EXPECT_EQ(flow.prediction_type(), PredictionType::kFlowPrediction);
  EXPECT_EQ(flow.forward_process(), ForwardProcessType::kFlowMatching);
  EXPECT_EQ(flow.flow_shift(), 3.0);
  EXPECT_TRUE(flow.has_inverted_sigmas());
  EXPECT_TRUE(flow.has_scale_noise());
  EXPECT_EQ(flow.noise_schedule(), nullptr);
  EXPECT_EQ(flow.steps_offset(), std::nullopt);
  EXPECT_EQ(flow.clip_sample(), std::nullopt);
  EXPECT_EQ(FlowMatchEulerDiscreteScheduler({.shift = 3.0, .use_dynamic_shifting = true}).flow_shift(), 1.0);

  EXPECT_TRUE(DPMSolverMultistepScheduler({.prediction_type = "flow_prediction", .use_flow_sigmas = true})
                  .uses_flow_sigmas());
  EXPECT_EQ(DPMSolverMultistepScheduler({.variance_type = "learned"}).variance_type(),
            VarianceType::kLearned);
  EXPECT_TRUE(EulerDiscreteScheduler({.prediction_type = "v_prediction", .timestep_type = "continuous"})
                  .has_continuous_timesteps());
  expect_throws_with<ConfigError>([] { ScoreSdeVeScheduler().prediction_type(); }, "score");
}

/// Keys from the config of another class are kept, as in Python.
TEST(Scheduler, TellsWhatItsHiddenConfigSays) {
  const auto euler = EulerDiscreteScheduler::from_config(
      R"({"_class_name": "DDPMScheduler", "variance_type": "learned", "clip_sample": true})");
  EXPECT_EQ(euler.variance_type(), VarianceType::kLearned);
  EXPECT_EQ(euler.clip_sample(), true);
  const auto lcm = UnCLIPScheduler::from_config(R"({"_class_name": "DDIMScheduler", "steps_offset": 1})");
  EXPECT_EQ(lcm.steps_offset(), 1);
}

TEST(Scheduler, TakesADeviceBehindTheNumberOfSteps) {
  DDIMScheduler ddim;
  ddim.set_timesteps(10, at::kCPU);
  EXPECT_EQ(ddim.timesteps().size(0), 10);
  Scheduler& base = ddim;
  base.set_timesteps(5, at::Device(at::kMeta));
  EXPECT_EQ(base.timesteps().device(), at::Device(at::kMeta));
  expect_throws_with<ConfigError>([&] { base.set_timesteps(0, at::kCPU); }, "num_inference_steps is 0");
}

TEST(Scheduler, TellsTheTimestepThatFollows) {
  DDPMScheduler ddpm;
  EXPECT_EQ(ddpm.previous_timestep(500), 499);
  ddpm.set_timesteps(10);
  EXPECT_EQ(ddpm.previous_timestep(900), 800);
  EXPECT_EQ(ddpm.previous_timestep(0), -1);
  expect_throws_with<TensorError>([&] { ddpm.previous_timestep(899); },
                                  "timestep 899 is none of timesteps()");
  DDIMScheduler ddim;
  expect_throws_with<Error>([&] { ddim.previous_timestep(900); }, "set_timesteps");
  ddim.set_timesteps(10);
  EXPECT_EQ(ddim.previous_timestep(950), 850);
  ddim.set_timesteps(std::nullopt, {.timesteps = {700, 100}});
  EXPECT_EQ(ddim.previous_timestep(700), 100);
  EXPECT_EQ(ddim.previous_timestep(100), -1);
  LCMScheduler lcm;
  EXPECT_EQ(lcm.previous_timestep(500), 499);
  lcm.set_timesteps(2);
  EXPECT_EQ(lcm.previous_timestep(999), 499);
  TCDScheduler tcd;
  tcd.set_timesteps(2);
  EXPECT_EQ(tcd.previous_timestep(499), -1);
  const Scheduler& without = PNDMScheduler();
  expect_throws_with<Error>([&] { without.previous_timestep(1); }, "PNDMScheduler has no previous_timestep");
}

class StepErrors : public testing::Test {
 protected:
  DDPMScheduler ddpm_;
  DDIMScheduler ddim_;
  Tensor x_ = at::ones({1, 3, 2, 2});
};

TEST_F(StepErrors, DDIMStepNeedsSetTimestepsAndDDPMDoesNot) {
  expect_throws_with<Error>([&] { ddim_.step(x_, 10, x_); }, "set_timesteps");
  EXPECT_NO_THROW(ddpm_.step(x_, 10, x_));
}

TEST_F(StepErrors, UnknownTimestepsAreNamed) {
  ddpm_.set_timesteps(10);
  ddim_.set_timesteps(10);
  expect_throws_with<TensorError>([&] { ddpm_.step(x_, 899, x_); }, "timestep 899");
  expect_throws_with<TensorError>([&] { ddim_.step(x_, 1000, x_); }, "timestep is 1000");
  expect_throws_with<TensorError>([&] { ddim_.step(x_, -1, x_); }, "timestep is -1");
  expect_throws_with<TensorError>([&] { ddim_.step(x_, 1.5, x_); }, "1.5");
  expect_throws_with<TensorError>([&] { ddim_.step(x_, Tensor(), x_); }, "undefined");
  expect_throws_with<TensorError>([&] { ddim_.step(x_, at::zeros({2}, at::kLong), x_); }, "single number");
}

TEST_F(StepErrors, ScalarsAndOneElementTensorsAreOneTimestep) {
  ddim_.set_timesteps(10);
  const Tensor expected = ddim_.step(x_, at::scalar_tensor(900, at::kLong), x_).prev_sample;
  expect_equal(ddim_.step(x_, at::tensor({900}, at::kLong), x_).prev_sample, expected);
  expect_equal(ddim_.step(x_, 900, x_).prev_sample, expected);
}

TEST_F(StepErrors, ShapesAndDtypesAreNamed) {
  DDPMScheduler learned({.variance_type = VarianceType::kLearnedRange});
  expect_throws_with<TensorError>([&] { learned.step(x_, 10, x_); }, "expected [1, 6, 2, 2]");
  expect_throws_with<TensorError>(
      [&] {
        ddpm_.step(at::ones({1, 6, 2, 2}), 10, x_);
      },
      "expected [1, 3, 2, 2]");
  expect_throws_with<TensorError>([&] { ddpm_.step(x_, 10, {}); }, "sample is an undefined tensor");
  expect_throws_with<TensorError>([&] { ddpm_.step({}, 10, x_); }, "model_output is an undefined tensor");
  expect_throws_with<TensorError>([&] { ddpm_.step(x_, 10, x_.to(at::kInt)); }, "int32");
}

TEST_F(StepErrors, OptionsThatAClassLacksAreRefused) {
  ddim_.set_timesteps(10);
  expect_throws_with<ConfigError>([&] { ddpm_.step(x_, 10, x_, {.eta = 1.0}); }, "eta");
  expect_throws_with<ConfigError>([&] { ddim_.step(x_, 900, x_, {.s_churn = 1.0}); }, "s_churn");
  expect_throws_with<ConfigError>(
      [&] { ddim_.step(x_, 900, x_, {.eta = 1.0, .generator = make_generator(0), .variance_noise = x_}); },
      "not both");
  expect_throws_with<TensorError>(
      [&] { ddim_.step(x_, 900, x_, {.eta = 1.0, .variance_noise = at::ones({1})}); }, "variance_noise");
}

TEST_F(StepErrors, ImpossibleStepCountsAreNamed) {
  expect_throws_with<ConfigError>([&] { ddpm_.set_timesteps(0); }, "num_inference_steps is 0");
  expect_throws_with<ConfigError>([&] { ddim_.set_timesteps(-3); }, "num_inference_steps is -3");
  expect_throws_with<ConfigError>([&] { ddim_.set_timesteps(1001); }, "num_train_timesteps = 1000");
  expect_throws_with<ConfigError>([&] { ddim_.set_timesteps(std::nullopt); }, "num_inference_steps");
  expect_throws_with<ConfigError>([&] { ddim_.set_timesteps(10, {.sigmas = {3, 2}}); }, "sigmas");
  expect_throws_with<ConfigError>([&] { ddpm_.set_timesteps(10, {.timesteps = {3, 2}}); }, "not both");
  expect_throws_with<ConfigError>(
      [&] {
        ddpm_.set_timesteps(std::nullopt, {.timesteps = {2, 3}});
      },
      "descend");
  expect_throws_with<ConfigError>([&] { ddpm_.set_timesteps(std::nullopt, {.timesteps = {1000}}); }, "1000");
  expect_throws_with<ConfigError>([&] { ddpm_.set_timesteps(10, {.sigmas = {1.0}}); }, "sigmas");
}

TEST_F(StepErrors, EpsilonAtZeroTerminalSnrIsAnErrorInsteadOfInfinity) {
  DDIMScheduler ddim(
      {.clip_sample = false, .timestep_spacing = TimestepSpacing::kTrailing, .rescale_betas_zero_snr = true});
  ddim.set_timesteps(10);
  expect_throws_with<ConfigError>([&] { ddim.step(x_, 999, x_); }, "v_prediction");
  EXPECT_NO_THROW(ddim.step(x_, 899, x_));
  DDPMScheduler ddpm({.clip_sample = false, .rescale_betas_zero_snr = true});
  expect_throws_with<ConfigError>([&] { ddpm.step(x_, 999, x_); }, "rescale_betas_zero_snr");
}

TEST(DDPMScheduler, FixedLargeLogSamplesWithTheStandardDeviationOfFixedLarge) {
  DDPMScheduler large({.variance_type = VarianceType::kFixedLarge});
  DDPMScheduler large_log({.variance_type = VarianceType::kFixedLargeLog});
  const Tensor x = seeded(0, {1, 3, 2, 2});
  expect_close(large_log.step(x, 500, x, {.generator = make_generator(3)}).prev_sample,
               large.step(x, 500, x, {.generator = make_generator(3)}).prev_sample, 1e-6, 1e-6);
}

TEST(DDIMScheduler, GivenVarianceNoiseEqualsTheNoiseOfTheGenerator) {
  DDIMScheduler scheduler;
  scheduler.set_timesteps(10);
  const Tensor x = seeded(0, {1, 3, 2, 2});
  expect_equal(scheduler.step(x, 500, x, {.eta = 0.5, .variance_noise = seeded(3, {1, 3, 2, 2})}).prev_sample,
               scheduler.step(x, 500, x, {.eta = 0.5, .generator = make_generator(3)}).prev_sample);
}

}  // namespace
}  // namespace diffusers::test

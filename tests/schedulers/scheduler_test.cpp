#include <diffusers/core/logging.h>
#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/schedulers/ddpm_scheduler.h>

#include "support.h"

namespace diffusers::test {
namespace {

/// Collects the warnings of a scope.
class Warnings {
 public:
  Warnings() {
    set_log_sink([this](LogLevel, std::string_view text) { texts_.emplace_back(text); });
  }
  Warnings(const Warnings&) = delete;
  Warnings& operator=(const Warnings&) = delete;
  ~Warnings() { set_log_sink({}); }
  const std::vector<std::string>& texts() const { return texts_; }

 private:
  std::vector<std::string> texts_;
};

TEST(SchedulerConfig, OfAnyOtherSchedulerIsTakenButOfNoModel) {
  const Warnings warnings;
  EXPECT_EQ(DDIMScheduler::from_config(R"({"_class_name": "PNDMScheduler"})").class_name(), "DDIMScheduler");
  EXPECT_EQ(DDIMScheduler::from_config(R"({"_class_name": "SchedulerOfMine"})").class_name(),
            "DDIMScheduler");
  EXPECT_TRUE(warnings.texts().empty());
  for (const char* config : {R"({"_class_name": "UNet2DModel"})", R"({"architectures": ["CLIPTextModel"]})"})
    expect_throws_with<ConfigError>([&] { DDIMScheduler::from_config(config); },
                                    "expected that of a scheduler, DDIMScheduler");
  for (const char* value : {"null", "7", "[]"}) {
    const std::string config = std::string(R"({"_class_name": )") + value + "}";
    expect_throws_with<ConfigError>([&] { DDIMScheduler::from_config(config); },
                                    std::string("_class_name is ") + value);
    expect_throws_with<ConfigError>([&] { Scheduler::from_config(config); }, "_class_name is");
  }
}

TEST(SchedulerConfig, SavedTextIsThatOfDiffusers) {
  const Golden golden = load_golden("schedulers.safetensors");
  const TemporaryFolder folder;
  for (const auto& entry : parse_json(golden.metadata.at("configs"), "configs")) {
    SCOPED_TRACE(entry.dump());
    const auto class_name = entry["class"].get<std::string>();
    std::string config = entry.value("config", "");
    if (entry.value("converted_from", "") == "DDPMScheduler") {
      config = DDPMScheduler({.clip_sample = false, .prediction_type = PredictionType::kVPrediction})
                   .config_json();
    } else if (entry.value("converted_from", "") == "DDIMScheduler") {
      config = DDIMScheduler({.clip_sample = false, .prediction_type = PredictionType::kVPrediction})
                   .config_json();
    }
    if (class_name == "DDPMScheduler") {
      DDPMScheduler::from_config(config).save_pretrained(folder.path());
    } else {
      DDIMScheduler::from_config(config).save_pretrained(folder.path());
    }
    EXPECT_EQ(read_text_file(folder / "scheduler_config.json"), entry["saved"].get<std::string>());
  }
}

TEST(SchedulerConfig, UnknownKeysWarnOnceAndCompatibleOnesAreSilent) {
  const Warnings warnings;
  const std::string config =
      R"({"_class_name": "PNDMScheduler", "skip_prk_steps": true, "never_heard_of": 7})";
  const DDPMScheduler scheduler = DDPMScheduler::from_config(config);
  DDPMScheduler::from_config(config);
  ASSERT_EQ(warnings.texts().size(), 1u);
  EXPECT_NE(warnings.texts()[0].find("never_heard_of"), std::string::npos);
  EXPECT_EQ(warnings.texts()[0].find("skip_prk_steps"), std::string::npos);
  const Json saved = parse_json(scheduler.config_json(), "config");
  EXPECT_EQ(saved["never_heard_of"], 7);
  EXPECT_EQ(saved["skip_prk_steps"], true);
  EXPECT_EQ(saved["_class_name"], "DDPMScheduler");
}

TEST(SchedulerConfig, OverridesWin) {
  const DDIMScheduler scheduler =
      DDIMScheduler::from_config(DDPMScheduler().config_json(), R"({"timestep_spacing": "trailing"})");
  EXPECT_EQ(scheduler.config().timestep_spacing, TimestepSpacing::kTrailing);
}

TEST(SchedulerConfig, MistakesAreNamed) {
  expect_throws_with<ConfigError>([] { DDPMScheduler::from_config(R"({"beta_schedule": "cubic"})"); },
                                  "\"cubic\"");
  expect_throws_with<ConfigError>([] { DDPMScheduler::from_config(R"({"beta_end": "0.02"})"); }, "beta_end");
  expect_throws_with<ConfigError>([] { DDPMScheduler::from_config("[1]"); }, "object");
  expect_throws_with<ConfigError>([] { DDPMScheduler::from_config("{"); }, "JSON");
  expect_throws_with<ConfigError>([] { DDIMScheduler({.prediction_type = PredictionType::kFlowPrediction}); },
                                  "flow_prediction");
  expect_throws_with<ConfigError>(
      [] { DDIMScheduler({.thresholding = true, .dynamic_thresholding_ratio = 2}); },
      "dynamic_thresholding_ratio is 2");
  expect_throws_with<ConfigError>([] { DDPMScheduler({.clip_sample_range = -1}); },
                                  "clip_sample_range is -1");
}

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

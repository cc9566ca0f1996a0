#include "schedulers/scheduler_config.h"

#include <string>
#include <vector>

#include <diffusers/core/logging.h>
#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/schedulers/dpmsolver_multistep_scheduler.h>
#include <diffusers/schedulers/edm_euler_scheduler.h>
#include <diffusers/schedulers/euler_discrete_scheduler.h>

#include "support.h"

namespace diffusers::test {
namespace {

/// Collects the warnings during its lifetime.
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

TEST(SchedulerConfig, OverridesAreKeysAndValues) {
  const std::string config = DDPMScheduler({.clip_sample = false}).config_json();
  const DDIMScheduler ddim =
      DDIMScheduler::from_config(config, {{"timestep_spacing", "trailing"},
                                          {"prediction_type", PredictionType::kVPrediction},
                                          {"steps_offset", 1}});
  EXPECT_EQ(ddim.config().timestep_spacing, TimestepSpacing::kTrailing);
  EXPECT_EQ(ddim.config().prediction_type, PredictionType::kVPrediction);
  EXPECT_EQ(ddim.config().steps_offset, 1);
  EXPECT_FALSE(ddim.config().clip_sample);
  EXPECT_EQ(parse_json(ddim.config_json(), "config")["timestep_spacing"], "trailing");

  const auto base = Scheduler::from_config(config, {{"timestep_spacing", "trailing"}});
  EXPECT_EQ(base->class_name(), "DDPMScheduler");
  EXPECT_EQ(dynamic_cast<DDPMScheduler&>(*base).config().timestep_spacing, TimestepSpacing::kTrailing);
  EXPECT_FALSE(dynamic_cast<DDPMScheduler&>(*base).config().clip_sample);
}

TEST(SchedulerConfig, OverridesOfKeysThatNobodyKnowsAreRefusedByName) {
  const std::string config = DDPMScheduler().config_json();
  expect_throws_with<ConfigError>(
      [&] {
        DDIMScheduler::from_config(config, {{"timestep_spacin", "trailing"}});
      },
      "DDIMScheduler: the override \"timestep_spacin\" is no field of its config; expected one of: "
      "num_train_timesteps");
  expect_throws_with<ConfigError>(
      [&] { Scheduler::from_config(config, R"({"timestep_spacin": "trailing"})"); }, "\"timestep_spacin\"");
  expect_throws_with<ConfigError>(
      [&] {
        DDIMScheduler::from_config(config, {{"_class_name", "DDPMScheduler"}});
      },
      "_class_name");
  expect_throws_with<ConfigError>([&] { DDIMScheduler::from_config(config, "[]"); }, "object");
  expect_throws_with<ConfigError>(
      [&] {
        DDIMScheduler::from_config(config, {{"steps_offset", 1}, {"steps_offset", 2}});
      },
      "steps_offset");
  expect_throws_with<ConfigError>(
      [&] {
        DDIMScheduler::from_config(config, {{"steps_offset", "one"}});
      },
      "steps_offset is \"one\"");
  // A key of the config can be changed even if the class does not know it.
  const auto euler = EulerDiscreteScheduler::from_config(config, {{"clip_sample", false}});
  EXPECT_EQ(euler.clip_sample(), false);
}

TEST(SchedulerConfig, StringsStandForEnumerators) {
  const DDPMScheduler ddpm({.beta_schedule = "squaredcos_cap_v2",
                            .variance_type = "learned_range",
                            .prediction_type = "v_prediction",
                            .timestep_spacing = "trailing"});
  EXPECT_EQ(ddpm.config().beta_schedule, BetaSchedule::kSquaredcosCapV2);
  EXPECT_EQ(ddpm.config().variance_type, VarianceType::kLearnedRange);
  EXPECT_EQ(ddpm.config().prediction_type, PredictionType::kVPrediction);
  EXPECT_EQ(ddpm.config().timestep_spacing, "trailing");
  const DDPMScheduler by_enumerators({.beta_schedule = BetaSchedule::kSquaredcosCapV2,
                                      .variance_type = VarianceType::kLearnedRange,
                                      .prediction_type = PredictionType::kVPrediction,
                                      .timestep_spacing = TimestepSpacing::kTrailing});
  EXPECT_EQ(ddpm.config_json(), by_enumerators.config_json());

  const DPMSolverMultistepScheduler dpm({.algorithm_type = "sde-dpmsolver++",
                                         .solver_type = "heun",
                                         .final_sigmas_type = "sigma_min",
                                         .variance_type = "learned",
                                         .time_shift_type = "linear"});
  EXPECT_EQ(dpm.config().algorithm_type, AlgorithmType::kSdeDpmsolverPlusPlus);
  EXPECT_EQ(dpm.config().solver_type, SolverType::kHeun);
  EXPECT_EQ(dpm.config().final_sigmas_type, FinalSigmasType::kSigmaMin);
  EXPECT_EQ(dpm.config().variance_type, EnumChoice(VarianceType::kLearned));
  EXPECT_EQ(dpm.config().time_shift_type, TimeShiftType::kLinear);
  const EulerDiscreteScheduler euler({.interpolation_type = "log_linear", .timestep_type = "discrete"});
  EXPECT_EQ(euler.config().interpolation_type, InterpolationType::kLogLinear);
  EXPECT_EQ(EDMEulerScheduler({.sigma_schedule = "exponential"}).config().sigma_schedule,
            SigmaScheduleType::kExponential);
}

TEST(SchedulerConfig, UnknownStringsListTheKnownOnes) {
  expect_throws_with<ConfigError>([] { DDPMScheduler({.beta_schedule = "cosine"}); },
                                  R"(beta_schedule is "cosine", expected one of: "linear" "scaled_linear")");
  expect_throws_with<ConfigError>(
      [] { DDPMScheduler({.prediction_type = "v-prediction"}); },
      R"(prediction_type is "v-prediction", expected one of: "epsilon" "sample")");
  expect_throws_with<ConfigError>(
      [] { EulerDiscreteScheduler({.timestep_spacing = "linear"}); },
      R"(timestep_spacing is "linear", expected one of: "linspace" "leading" "trailing")");
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

}  // namespace
}  // namespace diffusers::test

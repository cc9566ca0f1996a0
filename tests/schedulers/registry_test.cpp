// A scheduler class that a program defines: the complete example of `register_scheduler.h`.

#include <memory>
#include <string>
#include <vector>

#include <diffusers/core/logging.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/schedulers/register_scheduler.h>

#include "support.h"

namespace my_program {

struct LinearSchedulerConfig {
  int64_t num_train_timesteps = 100;
  double strength = 0.5;
  diffusers::EnumChoice<diffusers::PredictionType> prediction_type = "sample";
};

void visit_fields(LinearSchedulerConfig& config, diffusers::ConfigVisitor& visit) {
  visit("num_train_timesteps", config.num_train_timesteps);
  visit("strength", config.strength);
  visit("prediction_type", config.prediction_type);
}

/// x_t = (1 - t / T) x_0 + t / T eps
class LinearScheduler : public diffusers::ConfiguredScheduler<LinearScheduler, LinearSchedulerConfig> {
 public:
  static constexpr std::string_view kClassName = "LinearScheduler";

  explicit LinearScheduler(LinearSchedulerConfig config = {}) : ConfiguredScheduler(std::move(config)) {
    LinearScheduler::set_timesteps(config_.num_train_timesteps);
  }

  diffusers::Timesteps timesteps() const override { return timesteps_; }
  diffusers::Tensor add_noise(const diffusers::Tensor& x0, const diffusers::Tensor& noise,
                              const diffusers::Tensor& t) const override {
    const diffusers::Tensor share = t.view({-1, 1, 1, 1}) / static_cast<double>(config_.num_train_timesteps);
    return (1 - share) * x0 + share * noise;
  }
  using Scheduler::set_timesteps;
  void set_timesteps(std::optional<int64_t> n, const diffusers::SetTimestepsOptions& options = {}) override {
    timesteps_ = at::arange(*n - 1, -1, -1, at::TensorOptions(options.device).dtype(at::kLong));
  }
  using Scheduler::step;
  diffusers::SchedulerOutput step(const diffusers::Tensor& model_output,
                                  const diffusers::Tensor& /*timestep*/, const diffusers::Tensor& sample,
                                  const diffusers::StepOptions& /*options*/ = {}) override {
    return {.prev_sample = sample + config_.strength * (model_output - sample)};
  }

 private:
  diffusers::Timesteps timesteps_;
};

}  // namespace my_program

namespace diffusers::test {
namespace {

using my_program::LinearScheduler;

/// Registers the class once for all tests of this file.
void register_linear_scheduler() {
  [[maybe_unused]] static const bool is_registered = [] {
    register_scheduler<LinearScheduler>();
    return true;
  }();
}

TEST(RegisterScheduler, MakesAClassKnownToFromConfigAndFromPretrained) {
  register_linear_scheduler();
  const TemporaryFolder folder;
  LinearScheduler({.strength = 0.25, .prediction_type = "epsilon"}).save_pretrained(folder / "scheduler");
  const Json saved = parse_json(read_text_file(folder / "scheduler/scheduler_config.json"), "saved");
  EXPECT_EQ(saved, Json({{"_class_name", "LinearScheduler"},
                         {"_diffusers_version", "0.42.1"},
                         {"num_train_timesteps", 100},
                         {"prediction_type", "epsilon"},
                         {"strength", 0.25}}));
  const auto loaded = Scheduler::from_pretrained(folder.path(), {.subfolder = "scheduler"});
  EXPECT_EQ(dynamic_cast<LinearScheduler&>(*loaded).config().strength, 0.25);
  EXPECT_EQ(loaded->prediction_type(), PredictionType::kEpsilon);
  EXPECT_EQ(loaded->num_train_timesteps(), 100);
  loaded->set_timesteps(4, at::kCPU);
  EXPECT_EQ(loaded->timesteps().size(0), 4);
  EXPECT_EQ(loaded->clone()->class_name(), "LinearScheduler");
}

TEST(RegisterScheduler, TakesOverridesAndRefusesMisspeltOnes) {
  register_linear_scheduler();
  const std::string config = LinearScheduler().config_json();
  EXPECT_EQ(
      dynamic_cast<LinearScheduler&>(*Scheduler::from_config(config, {{"strength", 2.0}})).config().strength,
      2.0);
  expect_throws_with<ConfigError>(
      [&] {
        Scheduler::from_config(config, {{"stregnth", 2.0}});
      },
      "the override \"stregnth\" is no field of its config; expected one of: "
      "num_train_timesteps, strength, prediction_type");
  expect_throws_with<ConfigError>([&] { LinearScheduler::from_config(R"({"strength": "much"})"); },
                                  "LinearScheduler: strength is \"much\"");
}

TEST(RegisterScheduler, ConvertsToAndFromClassesOfTheLibrary) {
  register_linear_scheduler();
  std::vector<std::string> warnings;
  set_log_sink([&](LogLevel, std::string_view text) { warnings.emplace_back(text); });
  const auto ddpm = DDPMScheduler::from_config(LinearScheduler({.num_train_timesteps = 50}).config_json(),
                                               {{"num_train_timesteps", 50}});
  EXPECT_EQ(ddpm.num_train_timesteps(), 50);
  const auto linear = LinearScheduler::from_config(
      DDPMScheduler({.beta_end = 0.03, .prediction_type = "v_prediction"}).config_json());
  EXPECT_EQ(linear.prediction_type(), PredictionType::kVPrediction);
  // A conversion keeps values that were set. Defaults are not kept, as in Python.
  EXPECT_EQ(parse_json(linear.config_json(), "config")["beta_end"], 0.03);
  set_log_sink({});
  // The keys of both classes are known, so there is no warning.
  EXPECT_EQ(warnings, std::vector<std::string>());
}

TEST(RegisterScheduler, HasTheDefaultsOfAClassOfAProgram) {
  const LinearScheduler scheduler;
  EXPECT_EQ(scheduler.forward_process(), ForwardProcessType::kOwn);
  EXPECT_EQ(scheduler.noise_schedule(), nullptr);
  EXPECT_EQ(scheduler.variance_type(), std::nullopt);
  EXPECT_EQ(scheduler.flow_shift(), std::nullopt);
  EXPECT_FALSE(scheduler.uses_flow_sigmas());
  EXPECT_FALSE(scheduler.takes_eta());
  EXPECT_EQ(scheduler.order(), 1);
  expect_throws_with<Error>([&] { scheduler.betas(); }, "LinearScheduler has no betas");
  expect_throws_with<Error>([&] { scheduler.get_velocity({}, {}, {}); },
                            "LinearScheduler has no get_velocity");
}

TEST(RegisterScheduler, RefusesNamesThatAreTakenOrEmpty) {
  register_linear_scheduler();
  const auto create = [](std::string_view json) -> std::unique_ptr<Scheduler> {
    return std::make_unique<LinearScheduler>(LinearScheduler::from_config(json));
  };
  for (const char* name : {"LinearScheduler", "DDPMScheduler"})
    expect_throws_with<ConfigError>(
        [&] {
          register_scheduler({name, create, {}});
        },
        std::string("there is a scheduler class ") + name + " already");
  expect_throws_with<ConfigError>([&] { register_scheduler({"", create, {}}); }, "class_name is empty");
  expect_throws_with<ConfigError>(
      [&] {
        register_scheduler({"OtherScheduler", {}, {}});
      },
      "OtherScheduler has no create function");
}

TEST(RegisterScheduler, ListsAllClasses) {
  register_linear_scheduler();
  const std::vector<std::string> names = registered_schedulers();
  EXPECT_EQ(names.size(), 29u);
  EXPECT_EQ(names.front(), "DDPMScheduler");
  EXPECT_EQ(names.back(), "LinearScheduler");
  expect_throws_with<ConfigError>([] { Scheduler::from_config(R"({"_class_name": "NoScheduler"})"); },
                                  "LinearScheduler");
}

}  // namespace
}  // namespace diffusers::test

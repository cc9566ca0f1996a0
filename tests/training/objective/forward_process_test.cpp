// For every scheduler, a model receives the same input in training as in sampling.

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/schedulers/edm_euler_scheduler.h>
#include <diffusers/schedulers/euler_discrete_scheduler.h>
#include <diffusers/schedulers/flow_match_euler_discrete_scheduler.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"
#include "training/quick_training.h"

namespace diffusers {
namespace {

using test::expect_close;
using test::expect_equal;
using test::expect_throws_with;
using test::LogCapture;
using test::quiet_config;
using test::seeded_net;
using test::TinyImages;

/// A model that records its inputs and returns a given tensor.
struct ProbeNetImpl : torch::nn::Module {
  Tensor forward(const Tensor& sample, const Tensor& timesteps) {
    last_sample = sample;
    last_timesteps = timesteps;
    return answer.defined() ? answer : at::zeros_like(sample);
  }
  Tensor last_sample, last_timesteps, answer;
};
TORCH_MODULE(ProbeNet);

class ProbeTask : public DiffusionTask {
 public:
  ProbeTask(const ProbeNet& net, const Scheduler& scheduler, const TrainingConfig& config = {})
      : DiffusionTask(make_trainable(net), scheduler) {
    configure(config);
  }
  Draw next;

 protected:
  Draw draw(const Tensor&) override { return next; }
};

const std::set<std::string> kRefusedClasses{"CMStochasticIterativeScheduler",
                                            "DDIMInverseScheduler",
                                            "EDMDPMSolverMultistepScheduler",
                                            "EDMEulerScheduler",
                                            "IPNDMScheduler",
                                            "RePaintScheduler",
                                            "ScoreSdeVeScheduler"};

/// Returns every class that a scheduler folder can name.
std::vector<std::string> registered_classes() {
  std::string text;
  try {
    Scheduler::from_config(R"({"_class_name": "none"})");
  } catch (const ConfigError& error) {
    text = error.what();
  }
  constexpr std::string_view kBefore = "expected one of: ";
  text = text.substr(text.find(kBefore) + kBefore.size());
  std::vector<std::string> names;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find(", ", at), text.size());
    names.push_back(text.substr(at, end - at));
    at = end + 2;
  }
  return names;
}

std::unique_ptr<Scheduler> make_scheduler(const std::string& class_name, const std::string& fields) {
  return Scheduler::from_config(R"({"_class_name": ")" + class_name + "\"" + fields + "}");
}

/// Makes a scheduler; null if the class does not support the prediction type.
std::unique_ptr<Scheduler> with_prediction(const std::string& class_name, const std::string& prediction_type,
                                           const std::string& fields = "") {
  try {
    auto scheduler =
        make_scheduler(class_name, R"(, "prediction_type": ")" + prediction_type + "\"" + fields);
    return scheduler->prediction_type_name() == prediction_type ? std::move(scheduler) : nullptr;
  } catch (const ConfigError&) {
    return nullptr;
  }
}

/// Computes the exact prediction from x_0 and the noise, in float64.
Tensor right_prediction(const std::string& prediction_type, const Tensor& x0, const Tensor& noise,
                        double alpha_bar) {
  if (prediction_type == "epsilon") return noise;
  if (prediction_type == "sample") return x0;
  if (prediction_type == "flow_prediction") return noise - x0;
  return (std::sqrt(alpha_bar) * noise.to(at::kDouble) - std::sqrt(1 - alpha_bar) * x0.to(at::kDouble))
      .to(x0.scalar_type());
}

/// Compares training with sampling at some timesteps of a new run.
void expect_same_input(const std::string& label, const Scheduler& scheduler) {
  const std::string prediction_type = scheduler.prediction_type_name();
  const bool is_flow = prediction_type == "flow_prediction";
  const int64_t steps = scheduler.num_train_timesteps();
  std::unique_ptr<Scheduler> sampling = scheduler.clone();
  // Distilled models have 50 timesteps. As in Python, the inverse solver drops duplicate timesteps but keeps
  // their sigmas, which occurs if all timesteps are used.
  const int64_t run = label.starts_with("LCM") || label.starts_with("TCD")      ? 50
                      : label.starts_with("DPMSolverMultistepInverseScheduler") ? 500
                                                                                : steps;
  sampling->set_timesteps(run);
  const Timesteps timesteps = sampling->timesteps();
  const Tensor alphas_cumprod = is_flow ? Tensor() : scheduler.alphas_cumprod();

  const Generator generator = make_generator(8);
  const Tensor noise = at::randn({1, 3, 32, 32}, generator);
  const Tensor x0 = at::randn({1, 3, 32, 32}, generator).sign();  // standard deviation 1, within [-1, 1]
  ProbeNet net;
  ProbeTask task(net, scheduler);
  int64_t checked = 0;
  const int64_t count = timesteps.size(0);
  for (int64_t i = 0; i < count;
       i += i == count - 2 ? 1 : std::max<int64_t>(1, std::min(count / 7, count - 2 - i))) {
    const Tensor t = timesteps[i];
    const auto value = t.item<double>();
    const bool is_continuous = value < 0 || label.ends_with("continuous");
    if (!is_flow && !is_continuous && value != std::floor(value)) continue;  // between two training timesteps
    const std::string where = label + " at " + std::to_string(value);
    Tensor input;
    Tensor drawn;
    if (is_flow) {
      input = sampling->scale_noise(x0, t.reshape({1}), noise);
      drawn = t.reshape({1});
    } else {
      const Tensor noisy = sampling->add_noise(x0, noise, t.reshape({1}));
      input = sampling->scale_model_input(noisy, t);
      drawn = at::full({1}, is_continuous ? steps - 1 - i : static_cast<int64_t>(value), at::kLong);
    }
    const double alpha_bar = is_flow ? 0 : alphas_cumprod[drawn.item<int64_t>()].item<double>();
    task.next = {noise, noise, drawn};
    net->answer = right_prediction(prediction_type, x0, noise, alpha_bar);
    const auto loss = task.loss({.images = x0}, 0).loss.item<double>();
    EXPECT_LT(loss, 1e-9) << where;
    expect_close(net->last_sample, input, 2e-6, 2e-6, where);
    EXPECT_EQ(net->last_timesteps.item<double>(), value) << where;
    if (!is_flow) {
      EXPECT_NEAR(net->last_sample.std().item<double>(), 1.0, 0.06) << where;
    }

    // The scheduler's step computes x_0 from the same prediction.
    if (!is_flow && alpha_bar > 0.01 && alpha_bar < 0.99) {
      std::unique_ptr<Scheduler> once = scheduler.clone();
      once->set_timesteps(run);
      const Tensor noisy = once->add_noise(x0, noise, t.reshape({1}));
      const Tensor found = once->step(net->answer, once->timesteps()[i], noisy).pred_original_sample;
      if (found.defined()) expect_close(found, x0, 1e-4, 1e-4, where + ", pred_original_sample");
    }
    ++checked;
  }
  EXPECT_GE(checked, 3) << label;
}

TEST(ForwardProcess, TrainsOnTheInputOfSamplingWithEveryScheduler) {
  const LogCapture log;
  int64_t supported = 0;
  for (const std::string& name : registered_classes()) {
    if (kRefusedClasses.contains(name)) continue;
    ++supported;
    int64_t predictions = 0;
    for (const char* prediction : {"epsilon", "sample", "v_prediction", "flow_prediction"}) {
      const auto scheduler = with_prediction(name, prediction);
      if (!scheduler) continue;
      if (std::string_view(prediction) == "flow_prediction" && !name.starts_with("FlowMatch")) {
        expect_throws_with<ConfigError>([&] { DiffusionTask(make_trainable(ProbeNet()), *scheduler); },
                                        "FlowMatchEulerDiscreteScheduler");
        continue;
      }
      ++predictions;
      expect_same_input(name + " " + prediction, *scheduler);
    }
    EXPECT_GT(predictions, 0) << name;
  }
  EXPECT_EQ(supported, 21);
}

TEST(ForwardProcess, TrainsOnTheInputOfSamplingWithZeroTerminalSnrAndOtherBetas) {
  const LogCapture log;
  for (const std::string& name : registered_classes()) {
    if (kRefusedClasses.contains(name) || name.starts_with("FlowMatch")) continue;
    for (const char* fields : {R"(, "rescale_betas_zero_snr": true, "beta_schedule": "scaled_linear")",
                               R"(, "beta_schedule": "squaredcos_cap_v2")"}) {
      // If alpha_bar ends near 0, the other types divide by it, or the class does not support such betas.
      const auto scheduler = with_prediction(name, "v_prediction", fields);
      if (scheduler) expect_same_input(name + fields, *scheduler);
    }
  }
}

TEST(ForwardProcess, TrainsWithContinuousTimestepsOfEuler) {
  const auto scheduler =
      with_prediction("EulerDiscreteScheduler", "v_prediction", R"(, "timestep_type": "continuous")");
  expect_same_input("EulerDiscreteScheduler continuous", *scheduler);
}

TEST(ForwardProcess, ContinuousTimestepsNeedAPositionalEmbedding) {
  const auto scheduler =
      with_prediction("EulerDiscreteScheduler", "v_prediction", R"(, "timestep_type": "continuous")");
  test::LabelledNet model;
  model->facts.time_embedding_type = "fourier";
  expect_throws_with<ConfigError>([&] { Trainer(model, *scheduler); },
                                  "time_embedding_type of the model is \"fourier\", but the timesteps of "
                                  "timestep_type \"continuous\" are log(sigma) / 4");
}

TEST(ForwardProcess, TrainsWithShiftedFlows) {
  for (const char* name : {"FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"})
    expect_same_input(name, *make_scheduler(name, R"(, "shift": 3.0)"));
}

TEST(ForwardProcess, KeepsTheBitsOfDdpm) {
  const DDPMScheduler scheduler;
  ProbeNet net;
  ProbeTask task(net, scheduler);
  const Generator generator = make_generator(8);
  const Tensor x0 = at::randn({5, 3, 8, 8}, generator);
  const Tensor noise = at::randn({5, 3, 8, 8}, generator);
  const Tensor timesteps = at::tensor({0, 1, 500, 998, 999}, at::kLong);
  task.next = {noise, noise, timesteps};
  task.loss({.images = x0}, 0).loss;
  expect_equal(net->last_sample, scheduler.add_noise(x0, noise, timesteps));
  expect_equal(net->last_timesteps, timesteps);
}

TEST(ForwardProcess, WeighsAsDdpmWithTheSameBetas) {
  const LogCapture log;
  const Tensor timesteps = at::arange(1000, at::kLong);
  for (const std::string& name : registered_classes()) {
    if (kRefusedClasses.contains(name) || name.starts_with("FlowMatch")) continue;
    for (const char* prediction : {"epsilon", "sample", "v_prediction"}) {
      const auto scheduler = with_prediction(name, prediction);
      if (!scheduler) continue;
      // UnCLIP has fixed betas.
      const std::string betas = name == "UnCLIPScheduler" ? R"(, "beta_schedule": "squaredcos_cap_v2")" : "";
      const std::string own =
          name == "LCMScheduler" || name == "TCDScheduler"
              ? R"(, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012)"
          : name == "DPMSolverSDEScheduler" || name == "HeunDiscreteScheduler" ||
                  name == "KDPM2DiscreteScheduler" || name == "KDPM2AncestralDiscreteScheduler"
              ? R"(, "beta_start": 0.00085, "beta_end": 0.012)"
              : betas;
      const auto reference = with_prediction("DDPMScheduler", prediction, own);
      const DiffusionLossOptions options{.snr_gamma = 5.0};
      expect_equal(DiffusionObjective(*scheduler, options).weights(timesteps),
                   DiffusionObjective(*reference, options).weights(timesteps), name + " " + prediction);
    }
  }
}

TEST(ForwardProcess, RefusesWhatCannotBeTrainedWithInTheConstructor) {
  const LogCapture log;
  std::set<std::string> refused;
  for (const std::string& name : registered_classes()) {
    try {
      DiffusionTask(make_trainable(ProbeNet()), *make_scheduler(name, ""));
    } catch (const ConfigError& error) {
      EXPECT_NE(std::string_view(error.what()).find("training with " + name), std::string_view::npos)
          << error.what();
      refused.insert(name);
    }
  }
  EXPECT_EQ(refused, kRefusedClasses);
  expect_throws_with<ConfigError>([] { Trainer(seeded_net(), EDMEulerScheduler()); }, "EDMTask");
  expect_throws_with<ConfigError>(
      [] { Trainer(seeded_net(), FlowMatchEulerDiscreteScheduler({.invert_sigmas = true})); },
      "invert_sigmas = true");
  expect_throws_with<ConfigError>(
      [] {
        Trainer(seeded_net(), *make_scheduler("DPMSolverMultistepScheduler", R"(, "use_flow_sigmas": true)"));
      },
      "use_flow_sigmas = true");
}

/// A scheduler class that the library does not have.
class ForeignScheduler : public Scheduler {
 public:
  explicit ForeignScheduler(double scale) : scale_(scale) {}
  std::string class_name() const override { return "ForeignScheduler"; }
  std::string config_json() const override { return "{}"; }
  std::unique_ptr<Scheduler> clone() const override { return std::make_unique<ForeignScheduler>(*this); }
  Timesteps timesteps() const override { return ddpm_.timesteps(); }
  int64_t num_train_timesteps() const override { return 1000; }
  Tensor alphas_cumprod() const override { return ddpm_.alphas_cumprod(); }
  Tensor scale_model_input(const Tensor& sample, const Tensor&) const override { return sample * scale_; }
  Tensor add_noise(const Tensor& x0, const Tensor& noise, const Tensor& timesteps) const override {
    return ddpm_.add_noise(x0, noise, timesteps);
  }
  void set_timesteps(std::optional<int64_t> n, const SetTimestepsOptions& options) override {
    ddpm_.set_timesteps(n, options);
  }
  using Scheduler::step;
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options) override {
    return ddpm_.step(model_output, timestep, sample, options);
  }

 private:
  double scale_;
  DDPMScheduler ddpm_;
};

TEST(ForwardProcess, TakesASchedulerOfTheUsersUnlessItScalesTheInput) {
  ProbeNet net;
  ProbeTask task(net, ForeignScheduler(1.0));
  const Tensor x0 = at::full({1, 1, 2, 2}, 0.5);
  const Tensor timesteps = at::full({1}, 700, at::kLong);
  task.next = {at::ones_like(x0), at::ones_like(x0), timesteps};
  task.loss({.images = x0}, 0).loss;
  expect_equal(net->last_sample, DDPMScheduler().add_noise(x0, at::ones_like(x0), timesteps));
  expect_throws_with<ConfigError>([&] { DiffusionTask(make_trainable(net), ForeignScheduler(0.5)); },
                                  "scale_model_input");
}

TEST(ForwardProcess, DoesNotDependOnTheStateOfTheScheduler) {
  const LogCapture log;
  const TinyImages images(8);
  const std::vector<int64_t> indices{0, 1, 2, 3, 4, 5, 6, 7};
  const Batch batch = images.get_batch(indices, 0);
  for (const std::string& name : registered_classes()) {
    if (kRefusedClasses.contains(name)) continue;
    for (const char* fields : {"", R"(, "prediction_type": "v_prediction", "timestep_type": "continuous")"}) {
      std::unique_ptr<Scheduler> used;
      try {
        used = make_scheduler(name, fields);
      } catch (const ConfigError&) {
        continue;  // UnCLIP has no v_prediction
      }
      std::vector<Tensor> found;
      for (const int64_t run : {0, 7, 50, 1000}) {
        if (run > 50 && (name.starts_with("LCM") || name.starts_with("TCD"))) continue;
        if (run > 0) {
          used->set_timesteps(run);
          if (used->has_begin_index()) used->set_begin_index(2);
        }
        DiffusionTask task(make_trainable(seeded_net()), *used);
        task.configure({.snr_gamma = name.starts_with("FlowMatch") ? std::nullopt : std::optional(5.0)});
        task.begin_step({.step = 0, .samples = 8, .generator = make_generator(5)});
        found.push_back(at::cat(
            {task.loss(batch, 0).loss,
             task.validation_loss(batch, at::linspace(0.05, 0.95, 8, at::kDouble), make_generator(6))}));
        expect_equal(found.back(), found.front(),
                     name + fields + " after set_timesteps(" + std::to_string(run) + ")");
      }
    }
  }
}

TEST(ForwardProcess, TrainingAfterASamplingRunIsThatBeforeIt) {
  const auto train = [](const Scheduler& scheduler) {
    const test::TemporaryFolder folder;
    test::TinyNet model = seeded_net();
    Trainer(model, scheduler, quiet_config(folder.path())).train(TinyImages(12));
    return test::copies(model->parameters());
  };
  EulerDiscreteScheduler euler;
  FlowMatchEulerDiscreteScheduler flow({.shift = 3.0});
  for (Scheduler* scheduler : {static_cast<Scheduler*>(&euler), static_cast<Scheduler*>(&flow)}) {
    const std::vector<Tensor> before = train(*scheduler);
    scheduler->set_timesteps(1000);
    const std::vector<Tensor> after = train(*scheduler);
    for (std::size_t i = 0; i < before.size(); ++i)
      expect_equal(after[i], before[i], scheduler->class_name());
  }
}

}  // namespace
}  // namespace diffusers

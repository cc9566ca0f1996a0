// The numbers that the test suite of Python diffusers expects on the CPU (its tests/schedulers), with its
// tolerances: sum and mean of the absolute values after a loop with a toy model. They are independent of this
// library's golden tensors.

#include <diffusers/schedulers/ipndm_scheduler.h>
#include <diffusers/schedulers/score_sde_ve_scheduler.h>
#include <diffusers/schedulers/unclip_scheduler.h>
#include <diffusers/schedulers/unipc_multistep_scheduler.h>

#include "published_loops.h"
#include "support.h"

namespace diffusers::test {
namespace {

/// Returns the test suite's sample: the numbers from 0 to 1 in even steps, where the batch is the fastest
/// dimension.
Tensor toy_sample(bool one_dimensional = false, bool backwards = false) {
  const int64_t count = one_dimensional ? 96 : 768;
  Tensor ramp = at::arange(count, at::kFloat);
  if (backwards) ramp = ramp.flip(0);
  ramp = ramp / static_cast<double>(count);
  return one_dimensional ? ramp.reshape({3, 8, 4}).permute({2, 0, 1}).contiguous()
                         : ramp.reshape({3, 8, 8, 4}).permute({3, 0, 1, 2}).contiguous();
}

Tensor toy_model(const Tensor& sample, const Tensor& t) {
  const Tensor time = t.to(sample.scalar_type());
  return sample * time / (time + 1);
}

/// Runs a loop and returns the last sample.
Tensor run_published(Scheduler& scheduler, const PublishedLoop& loop) {
  if (loop.n || !loop.set_timesteps.timesteps.empty() || !loop.set_timesteps.sigmas.empty())
    scheduler.set_timesteps(loop.n, loop.set_timesteps);
  StepOptions options{.eta = loop.eta, .generator = make_generator(0)};
  const Timesteps timesteps = scheduler.timesteps();
  Tensor x = toy_sample(loop.one_dimensional);
  if (loop.scaling != Scaling::kNone) x = x * scheduler.init_noise_sigma();
  if (loop.add_noise)
    x = scheduler.add_noise(x, toy_sample(loop.one_dimensional, true),
                            timesteps.slice(0, loop.start, loop.start + 1));
  for (int64_t i = loop.start; i < timesteps.numel(); ++i) {
    const Tensor t = timesteps[i];
    const Tensor input = loop.scaling == Scaling::kNone ? x : scheduler.scale_model_input(x, t);
    if (loop.scaling == Scaling::kOfSamples) x = input;
    x = scheduler.step(toy_model(input, t), t, x, options).prev_sample;
  }
  return x;
}

class PublishedLoops : public testing::TestWithParam<PublishedLoop> {};

TEST_P(PublishedLoops, EndAtThePublishedNumbers) {
  const PublishedLoop& loop = GetParam();
  const Tensor x = run_published(*Scheduler::from_config(loop.json), loop).abs();
  if (loop.sum) {
    EXPECT_NEAR(x.sum().item<double>(), *loop.sum, loop.sum_tolerance);
  }
  EXPECT_NEAR(x.mean().item<double>(), loop.mean, loop.mean_tolerance);
}

INSTANTIATE_TEST_SUITE_P(All, PublishedLoops, testing::ValuesIn(published_loops()),
                         [](const auto& test) { return test.param.name; });

TEST(PublishedNumbers, SwitchingThroughOtherClassesKeepsTheResult) {
  const std::string multi = "DPMSolverMultistepScheduler", single = "DPMSolverSinglestepScheduler";
  const std::string deis = "DEISMultistepScheduler", unipc = "UniPCMultistepScheduler";
  const std::string inverse = "DPMSolverMultistepInverseScheduler";
  struct Switch {
    std::string json;
    std::vector<std::string> through;
    double mean;
    bool one_dimensional = false;
  };
  const std::vector<Switch> switches{
      {config(multi, kMultistep), {single, unipc, deis, multi}, 0.3301},
      {config(deis, kLinear), {single, multi, unipc, deis}, 0.23916},
      {config(single, kSolver), {deis, multi, unipc, single}, 0.2791},
      {config(unipc, kSolver), {single, deis, multi, unipc}, 0.2464},
      {config(unipc, kSolver), {single, deis, multi, unipc}, 0.2441, true},
      {config(inverse, kInverse), {multi, inverse}, 0.7047},
  };
  for (const auto& each : switches) {
    SCOPED_TRACE(each.json);
    auto scheduler = Scheduler::from_config(each.json);
    for (const auto& name : each.through) {
      Json json = parse_json(scheduler->config_json(), "config");
      json["_class_name"] = name;
      scheduler = Scheduler::from_config(dump_json(json));
    }
    const PublishedLoop loop{.name = "", .json = "", .one_dimensional = each.one_dimensional};
    EXPECT_NEAR(run_published(*scheduler, loop).abs().mean().item<double>(), each.mean, 1e-3);
  }
}

TEST(PublishedNumbers, ARunOverItsOwnTimestepsOrSigmasIsTheSameRun) {
  std::vector<std::string> jsons;
  for (const std::string prediction : {"epsilon", "sample", "v_prediction"})
    for (const std::string last : {"zero", "sigma_min"}) {
      const std::string more =
          R"("prediction_type": ")" + prediction + R"(", "final_sigmas_type": ")" + last + "\"";
      for (const std::string algorithm : {"dpmsolver++", "sde-dpmsolver++"})
        for (const std::string name : {"DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"})
          jsons.push_back(config(name, kLinear, more + R"(, "algorithm_type": ")" + algorithm + "\""));
      for (const std::string interpolation : {"linear", "log_linear"})
        jsons.push_back(config("EulerDiscreteScheduler", kLonger,
                               more + R"(, "interpolation_type": ")" + interpolation + "\""));
      jsons.push_back(
          config("HeunDiscreteScheduler", kLonger, R"("prediction_type": ")" + prediction + "\""));
    }
  for (const auto& json : jsons) {
    SCOPED_TRACE(json);
    const auto scheduler = Scheduler::from_config(json);
    const Tensor expected = run_published(*scheduler, {.name = "", .json = ""});
    PublishedLoop custom{.name = "", .json = "", .n = {}};
    const Timesteps timesteps = scheduler->timesteps();
    for (int64_t i = 0; i < timesteps.numel(); ++i)
      if (i == 0 || i % scheduler->order() == scheduler->order() - 1)
        custom.set_timesteps.timesteps.push_back(timesteps[i].item().toDouble());
    const auto run_custom = [&] { return run_published(*Scheduler::from_config(json), custom); };
    EXPECT_LT((run_custom() - expected).abs().sum().item<double>(), 1e-5);
    if (scheduler->class_name() == "EulerDiscreteScheduler" && json.find("log_linear") == std::string::npos) {
      const Tensor sigmas = scheduler->sigmas().to(at::kDouble);
      custom.set_timesteps.timesteps.clear();
      custom.set_timesteps.sigmas = {sigmas.const_data_ptr<double>(),
                                     sigmas.const_data_ptr<double>() + sigmas.numel()};
      EXPECT_LT((run_custom() - expected).abs().sum().item<double>(), 1e-5);
    }
  }
}

TEST(PublishedNumbers, UniPCWithFlowAndKarrasSigmas) {
  UniPCMultistepScheduler scheduler(
      {.use_karras_sigmas = true, .use_flow_sigmas = true, .sigma_min = 0.01, .sigma_max = 200.0});
  scheduler.set_timesteps(5);
  expect_close(scheduler.sigmas(),
               at::tensor({0.9950248599052429, 0.9787454605102539, 0.8774884343147278, 0.3604971766471863,
                           0.009900986216962337, 0.0},
                          at::kFloat),
               1e-5, 1e-8);
  expect_equal(scheduler.timesteps(), at::tensor({995, 978, 877, 360, 9}, at::kLong));
}

/// Python's test runs the timesteps twice without clearing the slopes.
class TwiceThroughIPNDM : public IPNDMScheduler {
 public:
  void rewind() { run_ = SigmaRun({}, run_.timesteps()); }
};

TEST(PublishedNumbers, IPNDM) {
  TwiceThroughIPNDM scheduler;
  scheduler.set_timesteps(10);
  Tensor x = toy_sample();
  for (int round = 0; round < 2; ++round) {
    scheduler.rewind();
    for (const Tensor& t : scheduler.timesteps()) x = scheduler.step(toy_model(x, t), t, x).prev_sample;
  }
  EXPECT_NEAR(x.abs().mean().item<double>(), 2540529, 10);
}

TEST(PublishedNumbers, UnCLIP) {
  UnCLIPScheduler scheduler;
  StepOptions options{.generator = make_generator(0)};
  Tensor x = toy_sample();
  for (const Tensor& t : scheduler.timesteps())
    x = scheduler.step(toy_model(x, t), t, x, options).prev_sample;
  EXPECT_NEAR(x.abs().sum().item<double>(), 252.2682495, 1e-2);
  EXPECT_NEAR(x.abs().mean().item<double>(), 0.3284743, 1e-3);

  scheduler.set_timesteps(25);
  options.generator = make_generator(0);
  x = toy_sample();
  const Timesteps timesteps = scheduler.timesteps();
  for (int64_t i = 0; i < 25; ++i) {
    const Tensor t = timesteps[i];
    const Tensor output = toy_model(x, t);
    x = (i + 1 < 25 ? scheduler.step(output, t, x, timesteps[i + 1].item<int64_t>(), options)
                    : scheduler.step(output, t, x, options))
            .prev_sample;
  }
  EXPECT_NEAR(x.abs().sum().item<double>(), 258.2044983, 1e-2);
  EXPECT_NEAR(x.abs().mean().item<double>(), 0.3362038, 1e-3);
}

TEST(PublishedNumbers, ScoreSdeVe) {
  ScoreSdeVeScheduler scheduler({.sigma_max = 1348});
  scheduler.set_sigmas(3);
  scheduler.set_timesteps(3);
  const StepOptions options{.generator = make_generator(0)};
  Tensor x = toy_sample();
  const Timesteps timesteps = scheduler.timesteps();
  for (int64_t i = 0; i < 3; ++i) {
    const Tensor sigma = scheduler.sigmas()[i];
    x = scheduler.step_correct(toy_model(x, sigma), x, options).prev_sample;
    x = scheduler.step_pred(toy_model(x, sigma), timesteps[i], x, options).prev_sample;
  }
  EXPECT_NEAR(x.abs().sum().item<double>(), 14372758528.0, 1e-5 * 14372758528.0);
  EXPECT_NEAR(x.abs().mean().item<double>(), 18714530.0, 1e-5 * 18714530.0);
}

}  // namespace
}  // namespace diffusers::test

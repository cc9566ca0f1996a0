// The numbers that the test-suite of Python diffusers expects on the CPU (tests/schedulers there), with its
// tolerances: sum and mean of the magnitudes after a loop over a toy model. They were published long before
// this library, so no golden tensor of ours can have shaped them.

#include <diffusers/schedulers/ipndm_scheduler.h>
#include <diffusers/schedulers/score_sde_ve_scheduler.h>
#include <diffusers/schedulers/unclip_scheduler.h>
#include <diffusers/schedulers/unipc_multistep_scheduler.h>

#include "support.h"

namespace diffusers::test {
namespace {

/// The numbers from 0 to 1 in even steps, the batch running fastest.
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

/// How a loop of that test-suite uses the scaling of a scheduler.
enum class Scaling {
  kNone,       // not at all
  kOfInput,    // as a pipeline does
  kOfSamples,  // the step goes on from the scaled sample
};

struct PublishedLoop {
  std::string name;
  std::string json;
  std::optional<int64_t> n = 10;
  SetTimestepsOptions set_timesteps = {};
  std::optional<double> eta = {};
  Scaling scaling = Scaling::kOfSamples;
  int64_t start = 0;       // steps that are left out
  bool add_noise = false;  // whether the loop starts with a noised sample
  bool one_dimensional = false;
  std::optional<double> sum = {};  // not published for some
  double mean = 0;
  double sum_tolerance = 1e-2;
  double mean_tolerance = 1e-3;
};

std::string config(const std::string& class_name, const std::string& fields, const std::string& more = "") {
  return R"({"_class_name": ")" + class_name + "\", " + fields + (more.empty() ? "" : ", ") + more + "}";
}

const std::string kLinear =
    R"("num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear")";
const std::string kLonger =
    R"("num_train_timesteps": 1100, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear")";
const std::string kScaled =
    R"("num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear")";
const std::string kSolver = kLinear + R"(, "solver_order": 2, "final_sigmas_type": "sigma_min")";
const std::string kInverse = kLinear + R"(, "solver_order": 2, "lower_order_final": false)";
const std::string kMultistep = kSolver + R"(, "lower_order_final": false)";
const std::string kEdm = R"("sigma_min": 0.002, "sigma_max": 80.0)";
const std::string kEdmSolver = kEdm + R"(, "lower_order_final": false, "final_sigmas_type": "sigma_min")";

const std::string kV = R"("prediction_type": "v_prediction")";
const std::string kKarras = R"("use_karras_sigmas": true)";
const std::string kKarrasV = kV + ", " + kKarras;
const std::string kOne = R"("set_alpha_to_one": true, "beta_start": 0.01)";
const std::string kNotOne = R"("set_alpha_to_one": false, "beta_start": 0.01)";
const std::string kThresholding =
    R"("thresholding": true, "dynamic_thresholding_ratio": 0.87, "sample_max_value": 0.5)";

/// kLinear with another beta_start, which JSON does not take twice.
std::string linear_with(const std::string& more) {
  return R"("num_train_timesteps": 1000, "beta_end": 0.02, "beta_schedule": "linear", )" + more;
}

std::vector<PublishedLoop> published_loops() {
  const std::string ddpm = "DDPMScheduler", ddim = "DDIMScheduler", inverse = "DDIMInverseScheduler";
  const std::string deis = "DEISMultistepScheduler", multi = "DPMSolverMultistepScheduler";
  const std::string multi_inverse = "DPMSolverMultistepInverseScheduler", sde = "DPMSolverSDEScheduler";
  const std::string single = "DPMSolverSinglestepScheduler", edm_multi = "EDMDPMSolverMultistepScheduler";
  const std::string edm_euler = "EDMEulerScheduler", euler = "EulerDiscreteScheduler";
  const std::string ancestral = "EulerAncestralDiscreteScheduler", heun = "HeunDiscreteScheduler";
  const std::string kdpm2 = "KDPM2DiscreteScheduler", kdpm2a = "KDPM2AncestralDiscreteScheduler";
  const std::string lms = "LMSDiscreteScheduler", pndm = "PNDMScheduler", sa = "SASolverScheduler";
  const std::string unipc = "UniPCMultistepScheduler", lcm = "LCMScheduler", tcd = "TCDScheduler";
  const std::string cm = "CMStochasticIterativeScheduler";
  const std::string seeded_sde = kLonger + R"(, "noise_sampler_seed": 0)";
  const std::string consistency = R"("num_train_timesteps": 201, "sigma_min": 0.002, "sigma_max": 80.0)";
  return {
      {.name = "Ddpm", .json = config(ddpm, kLinear), .n = {}, .sum = 258.9606, .mean = 0.3372},
      {.name = "DdpmV", .json = config(ddpm, kLinear, kV), .n = {}, .sum = 202.0296, .mean = 0.2631},
      {.name = "DdpmNoised",
       .json = config(ddpm, kLinear),
       .n = {},
       .start = 998,
       .add_noise = true,
       .sum = 387.9466,
       .mean = 0.5051},
      {.name = "Ddim", .json = config(ddim, kLinear), .sum = 172.0067, .mean = 0.223967},
      {.name = "DdimV", .json = config(ddim, kLinear, kV), .sum = 52.5302, .mean = 0.0684},
      {.name = "DdimAlphaOne", .json = config(ddim, linear_with(kOne)), .sum = 149.8295, .mean = 0.1951},
      {.name = "DdimAlphaNotOne",
       .json = config(ddim, linear_with(kNotOne)),
       .sum = 149.0784,
       .mean = 0.1941},
      {.name = "DdimNoised",
       .json = config(ddim, kLinear),
       .start = 8,
       .add_noise = true,
       .sum = 354.5418,
       .mean = 0.4616},
      {.name = "DdimInverse", .json = config(inverse, kLinear), .sum = 671.6816, .mean = 0.8746},
      {.name = "DdimInverseV", .json = config(inverse, kLinear, kV), .sum = 1394.2185, .mean = 1.8154},
      {.name = "DdimInverseAlphaOne",
       .json = config(inverse, linear_with(kOne)),
       .sum = 539.9622,
       .mean = 0.7031},
      {.name = "DdimInverseAlphaNotOne",
       .json = config(inverse, linear_with(kNotOne)),
       .sum = 542.6722,
       .mean = 0.7066},
      {.name = "Pndm", .json = config(pndm, kLinear), .sum = 198.1318, .mean = 0.2580},
      {.name = "PndmV", .json = config(pndm, kLinear, kV), .sum = 67.3986, .mean = 0.0878},
      {.name = "PndmAlphaOne", .json = config(pndm, linear_with(kOne)), .sum = 230.0399, .mean = 0.2995},
      {.name = "PndmAlphaNotOne",
       .json = config(pndm, linear_with(kNotOne)),
       .sum = 186.9482,
       .mean = 0.2434},
      {.name = "Deis", .json = config(deis, kLinear), .mean = 0.23916},
      {.name = "DeisV", .json = config(deis, kLinear, kV), .mean = 0.091},
      {.name = "DeisNoised",
       .json = config(deis, kLinear),
       .start = 8,
       .add_noise = true,
       .sum = 315.3016,
       .mean = 0.41054},
      {.name = "Multistep", .json = config(multi, kMultistep), .mean = 0.3301},
      {.name = "MultistepNoised",
       .json = config(multi, kMultistep),
       .start = 5,
       .add_noise = true,
       .sum = 318.4111,
       .mean = 0.4146},
      {.name = "MultistepThresholding", .json = config(multi, kMultistep, kThresholding), .mean = 1.1364},
      {.name = "MultistepV", .json = config(multi, kMultistep, kV), .mean = 0.2251},
      {.name = "MultistepKarrasV", .json = config(multi, kMultistep, kKarrasV), .mean = 0.2096},
      {.name = "MultistepLuV",
       .json = config(multi, kMultistep, kV + R"(, "use_lu_lambdas": true)"),
       .mean = 0.1554},
      {.name = "MultistepInverse", .json = config(multi_inverse, kInverse), .mean = 0.7047},
      {.name = "MultistepInverseThresholding",
       .json = config(multi_inverse, kInverse, kThresholding),
       .mean = 19.8933},
      {.name = "MultistepInverseV", .json = config(multi_inverse, kInverse, kV), .mean = 1.5194},
      {.name = "MultistepInverseKarrasV",
       .json = config(multi_inverse, kInverse, kKarrasV),
       .mean = 1.7833,
       .mean_tolerance = 2e-3},
      {.name = "Singlestep", .json = config(single, kSolver), .mean = 0.2791},
      {.name = "SinglestepUneven", .json = config(single, kSolver), .n = 50, .start = 3, .mean = 0.2574},
      {.name = "SinglestepKarras", .json = config(single, kSolver, kKarras), .mean = 0.2248},
      {.name = "SinglestepV", .json = config(single, kSolver, kV), .mean = 0.1453},
      {.name = "SinglestepKarrasV", .json = config(single, kSolver, kKarrasV), .mean = 0.0649},
      {.name = "SinglestepNoised",
       .json = config(single, kSolver),
       .start = 5,
       .add_noise = true,
       .sum = 269.2187,
       .mean = 0.3505},
      {.name = "Sde", .json = config(sde, seeded_sde), .sum = 162.52383422851562, .mean = 0.211619570851326},
      {.name = "SdeV",
       .json = config(sde, seeded_sde, kV),
       .sum = 119.8487548828125,
       .mean = 0.1560530662536621},
      {.name = "SdeKarras",
       .json = config(sde, seeded_sde, kKarras),
       .sum = 170.3135223388672,
       .mean = 0.23003872730981811,
       .mean_tolerance = 1e-2},
      {.name = "EdmMultistep",
       .json = config(edm_multi, kEdmSolver),
       .scaling = Scaling::kNone,
       .mean = 0.0001},
      {.name = "EdmMultistepNoised",
       .json = config(edm_multi, kEdmSolver),
       .scaling = Scaling::kNone,
       .start = 5,
       .add_noise = true,
       .sum = 8.1661,
       .mean = 0.0106},
      {.name = "EdmMultistepThresholding",
       .json = config(edm_multi, kEdmSolver, kThresholding),
       .scaling = Scaling::kNone,
       .mean = 0.0080},
      {.name = "EdmMultistepV",
       .json = config(edm_multi, kEdmSolver, kV),
       .scaling = Scaling::kNone,
       .mean = 0.0092},
      {.name = "EdmEuler",
       .json = config(edm_euler, kEdm, R"("num_train_timesteps": 256)"),
       .scaling = Scaling::kOfInput,
       .sum = 34.1855,
       .mean = 0.044,
       .sum_tolerance = 1e-3},
      {.name = "Euler", .json = config(euler, kLonger), .sum = 10.0807, .mean = 0.0131},
      {.name = "EulerV", .json = config(euler, kLonger, kV), .sum = 0.0002, .mean = 2.2676e-06},
      {.name = "EulerKarras",
       .json = config(euler, kLonger, kKarras),
       .sum = 124.52299499511719,
       .mean = 0.16213932633399963},
      {.name = "EulerNoised",
       .json = config(euler, kLonger),
       .start = 8,
       .add_noise = true,
       .sum = 57062.9297,
       .mean = 74.3007},
      {.name = "EulerAncestral", .json = config(ancestral, kLonger), .sum = 152.3192, .mean = 0.1983},
      {.name = "EulerAncestralV", .json = config(ancestral, kLonger, kV), .sum = 108.4439, .mean = 0.1412},
      {.name = "EulerAncestralNoised",
       .json = config(ancestral, kLonger),
       .start = 8,
       .add_noise = true,
       .sum = 56163.0508,
       .mean = 73.1290},
      {.name = "Heun", .json = config(heun, kLonger), .sum = 0.1233, .mean = 0.0002},
      {.name = "HeunV", .json = config(heun, kLonger, kV), .sum = 4.6934e-07, .mean = 6.1112e-10},
      {.name = "HeunKarras",
       .json = config(heun, kLonger, kKarras),
       .sum = 0.00015,
       .mean = 1.9869554535034695e-07},
      {.name = "HeunNoised",
       .json = config(heun, kLonger),
       .start = 16,
       .add_noise = true,
       .sum = 75074.8906,
       .mean = 97.7538},
      {.name = "Kdpm2", .json = config(kdpm2, kLonger), .sum = 20.4125, .mean = 0.0266},
      {.name = "Kdpm2V", .json = config(kdpm2, kLonger, kV), .sum = 4.6934e-07, .mean = 6.1112e-10},
      {.name = "Kdpm2Noised",
       .json = config(kdpm2, kLonger),
       .start = 16,
       .add_noise = true,
       .sum = 70408.4062,
       .mean = 91.6776},
      {.name = "Kdpm2Ancestral",
       .json = config(kdpm2a, kLonger),
       .sum = 13979.9433,
       .mean = 18.2030,
       .mean_tolerance = 5e-3},
      {.name = "Kdpm2AncestralV", .json = config(kdpm2a, kLonger, kV), .sum = 331.8133, .mean = 0.4320},
      {.name = "Kdpm2AncestralNoised",
       .json = config(kdpm2a, kLonger),
       .start = 16,
       .add_noise = true,
       .sum = 93087.3437,
       .mean = 121.2074,
       .mean_tolerance = 5e-3},
      {.name = "Lms", .json = config(lms, kLonger), .sum = 1006.388, .mean = 1.31},
      {.name = "LmsV", .json = config(lms, kLonger, kV), .sum = 0.0017, .mean = 2.2676e-06},
      {.name = "LmsKarras",
       .json = config(lms, kLonger, kKarras),
       .sum = 3812.9927,
       .mean = 4.9648,
       .sum_tolerance = 2e-2},
      {.name = "LmsNoised",
       .json = config(lms, kLonger),
       .start = 8,
       .add_noise = true,
       .sum = 27663.6895,
       .mean = 36.0204},
      {.name = "SaSolver", .json = config(sa, kLonger), .sum = 337.394287109375, .mean = 0.43931546807289124},
      {.name = "SaSolverV",
       .json = config(sa, kLonger, kV),
       .sum = 193.1467742919922,
       .mean = 0.2514931857585907},
      {.name = "SaSolverKarras",
       .json = config(sa, kLonger, kKarras),
       .sum = 837.2554931640625,
       .mean = 1.0901764631271362,
       .mean_tolerance = 1e-2},
      {.name = "UniPC", .json = config(unipc, kSolver), .mean = 0.2464},
      {.name = "UniPCKarras", .json = config(unipc, kSolver, kKarras), .mean = 0.2925},
      {.name = "UniPCV", .json = config(unipc, kSolver, kV), .mean = 0.1014},
      {.name = "UniPCKarrasV", .json = config(unipc, kSolver, kKarrasV), .mean = 0.1966},
      {.name = "UniPCNoised",
       .json = config(unipc, kSolver),
       .start = 8,
       .add_noise = true,
       .sum = 315.5757,
       .mean = 0.4109},
      {.name = "UniPC1D", .json = config(unipc, kSolver), .one_dimensional = true, .mean = 0.2441},
      {.name = "UniPC1DKarras",
       .json = config(unipc, kSolver, kKarras),
       .one_dimensional = true,
       .mean = 0.2898},
      {.name = "UniPC1DV", .json = config(unipc, kSolver, kV), .one_dimensional = true, .mean = 0.1014},
      {.name = "UniPC1DKarrasV",
       .json = config(unipc, kSolver, kKarrasV),
       .one_dimensional = true,
       .mean = 0.1944},
      {.name = "UniPC1DNoised",
       .json = config(unipc, kSolver),
       .start = 8,
       .add_noise = true,
       .one_dimensional = true,
       .sum = 39.0870,
       .mean = 0.4072},
      {.name = "LcmOneStep",
       .json = config(lcm, kScaled),
       .n = 1,
       .sum = 18.7097,
       .mean = 0.0244,
       .sum_tolerance = 1e-3},
      {.name = "LcmTenSteps",
       .json = config(lcm, kScaled),
       .sum = 197.7616,
       .mean = 0.2575,
       .sum_tolerance = 1e-3},
      {.name = "TcdOneStep",
       .json = config(tcd, kScaled),
       .n = 1,
       .eta = 0.0,
       .sum = 29.8715,
       .mean = 0.0389,
       .sum_tolerance = 1e-3},
      {.name = "TcdTenSteps",
       .json = config(tcd, kScaled),
       .eta = 0.0,
       .sum = 181.2040,
       .mean = 0.2359,
       .sum_tolerance = 1e-3},
      {.name = "ConsistencyOneStep",
       .json = config(cm, consistency),
       .n = 1,
       .scaling = Scaling::kOfInput,
       .sum = 192.7614,
       .mean = 0.2510},
      {.name = "ConsistencyTwoSteps",
       .json = config(cm, consistency),
       .n = {},
       .set_timesteps = {.timesteps = {106, 0}},
       .scaling = Scaling::kOfInput,
       .sum = 347.6357,
       .mean = 0.4527},
      {.name = "ConsistencyNoised",
       .json = config(cm, consistency),
       .scaling = Scaling::kOfInput,
       .start = 8,
       .add_noise = true,
       .sum = 763.9186,
       .mean = 0.9947},
  };
}

/// The sample at the end of such a loop.
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

/// That test goes through the timesteps twice without forgetting the slopes.
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

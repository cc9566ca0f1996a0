#pragma once

// The loops of published_test.cpp and the numbers that the test suite of Python diffusers expects at their
// end.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/schedulers/scheduler.h>

namespace diffusers::test {

/// Use of scale_model_input in a loop of the test suite.
enum class Scaling {
  kNone,       // not used
  kOfInput,    // scales the model input, as a pipeline does
  kOfSamples,  // scales the sample, and the step starts from the scaled sample
};

struct PublishedLoop {
  std::string name;
  std::string json;
  std::optional<int64_t> n = 10;
  SetTimestepsOptions set_timesteps = {};
  std::optional<double> eta = {};
  Scaling scaling = Scaling::kOfSamples;
  int64_t start = 0;       // number of steps that are skipped
  bool add_noise = false;  // starts the loop with a noised sample
  bool one_dimensional = false;
  std::optional<double> sum = {};  // not published for some
  double mean = 0;
  double sum_tolerance = 1e-2;
  double mean_tolerance = 1e-3;
};

inline std::string config(const std::string& class_name, const std::string& fields,
                          const std::string& more = "") {
  return R"({"_class_name": ")" + class_name + "\", " + fields + (more.empty() ? "" : ", ") + more + "}";
}

inline const std::string kLinear =
    R"("num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear")";
inline const std::string kLonger =
    R"("num_train_timesteps": 1100, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear")";
inline const std::string kScaled =
    R"("num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear")";
inline const std::string kSolver = kLinear + R"(, "solver_order": 2, "final_sigmas_type": "sigma_min")";
inline const std::string kInverse = kLinear + R"(, "solver_order": 2, "lower_order_final": false)";
inline const std::string kMultistep = kSolver + R"(, "lower_order_final": false)";
inline const std::string kEdm = R"("sigma_min": 0.002, "sigma_max": 80.0)";
inline const std::string kEdmSolver =
    kEdm + R"(, "lower_order_final": false, "final_sigmas_type": "sigma_min")";

inline const std::string kV = R"("prediction_type": "v_prediction")";
inline const std::string kKarras = R"("use_karras_sigmas": true)";
inline const std::string kKarrasV = kV + ", " + kKarras;
inline const std::string kOne = R"("set_alpha_to_one": true, "beta_start": 0.01)";
inline const std::string kNotOne = R"("set_alpha_to_one": false, "beta_start": 0.01)";
inline const std::string kThresholding =
    R"("thresholding": true, "dynamic_thresholding_ratio": 0.87, "sample_max_value": 0.5)";

/// kLinear without beta_start, which `more` sets, since JSON does not allow a duplicate key.
inline std::string linear_with(const std::string& more) {
  return R"("num_train_timesteps": 1000, "beta_end": 0.02, "beta_schedule": "linear", )" + more;
}

inline std::vector<PublishedLoop> published_loops() {
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

}  // namespace diffusers::test

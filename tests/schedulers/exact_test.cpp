// Values that equal Python's bit for bit. Timesteps are equal, so a timestep from Python exists here. Steps
// at large noise levels are equal, since x_0 is a difference of nearly equal numbers divided by a small
// number there, and an error in the last bit of a coefficient grows a hundredfold.
// tests/reference/schedulers_exact.py writes the golden tensors.

#include <array>
#include <cstdlib>

#include "support.h"

namespace diffusers::test {
namespace {

/// Selects AVX2 kernels, with which the golden tensors were computed. AVX-512 kernels round some functions
/// differently. LibTorch reads the variable before its first operation.
[[maybe_unused]] const int kKernels = setenv("ATEN_CPU_CAPABILITY", "avx2", /*overwrite=*/0);

const Golden& exact() {
  static const Golden golden = load_golden("schedulers_exact.safetensors");
  return golden;
}

Json exact_metadata(const std::string& key) { return parse_json(exact().metadata.at(key), key); }

uint32_t crc32(const Tensor& tensor) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> made{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t word = i;
      for (int bit = 0; bit < 8; ++bit) word = word >> 1 ^ ((word & 1) != 0 ? 0xedb88320U : 0U);
      made[i] = word;
    }
    return made;
  }();
  const Tensor bytes = tensor.contiguous();
  const auto* data = static_cast<const unsigned char*>(bytes.const_data_ptr());
  uint32_t sum = ~0U;
  for (std::size_t i = 0; i < bytes.nbytes(); ++i) sum = sum >> 8 ^ table[(sum ^ data[i]) & 0xffU];
  return ~sum;
}

/// Returns true if LibTorch's functions give the same bits as on the CPU on which the golden tensors were
/// made. MKL has special code for some CPUs.
bool rounds_as_the_golden_numbers() {
  static const bool same = [] {
    const Tensor numbers = at::arange(1, 258) / 257;
    const std::vector<std::pair<std::string, Tensor (*)(const Tensor&)>> functions{
        {"sqrt", at::sqrt}, {"log", at::log}, {"exp", at::exp}, {"expm1", at::expm1}};
    for (const auto& [name, function] : functions)
      for (int64_t i = 0; i < numbers.size(0); ++i)
        if (!function(numbers[i]).equal(exact()["probe/" + name][i])) return false;
    return true;
  }();
  return same;
}

TEST(ExactSchedulers, HavePythonsTimestepsToTheLastBit) {
  if (!rounds_as_the_golden_numbers()) GTEST_SKIP() << "LibTorch rounds differently on this CPU";
  const auto counts = exact_metadata("counts").get<std::vector<int64_t>>();
  int64_t compared = 0;
  for (const Json& each : exact_metadata("timesteps")) {
    Json json = each["config"];
    json["_class_name"] = each["class"];
    const auto scheduler = Scheduler::from_config(dump_json(json));
    for (std::size_t i = 0; i < counts.size(); ++i) {
      if (each["sums"][i].is_null()) continue;
      try {
        scheduler->set_timesteps(counts[i]);
      } catch (const ConfigError& error) {
        ADD_FAILURE() << dump_json(json) << ", " << counts[i] << " steps: " << error.what();
        continue;
      }
      Tensor timesteps = scheduler->timesteps();
      // Python drops equal timesteps of the inverse Karras schedule but keeps their sigmas. The library
      // visits each timestep.
      if (each["class"] == "DPMSolverMultistepInverseScheduler" &&
          each["config"].value("use_karras_sigmas", false))
        timesteps = std::get<0>(at::unique_consecutive(timesteps));
      EXPECT_EQ(dtype_name(timesteps.scalar_type()), each["dtype"].get<std::string>()) << dump_json(json);
      // SciPy's quantiles, from which the beta sigmas are computed, have errors of up to 8 units in the last
      // place of a float64.
      const bool narrowed =
          timesteps.scalar_type() == at::kDouble && each["config"].value("use_beta_sigmas", false);
      EXPECT_EQ(crc32(narrowed ? timesteps.to(at::kFloat) : timesteps), each["sums"][i].get<uint32_t>())
          << dump_json(json) << ", " << counts[i] << " steps: " << timesteps;
      ++compared;
    }
  }
  RecordProperty("timestep schedules compared", static_cast<int>(compared));
  EXPECT_GT(compared, 3000);
}

TEST(ExactSchedulers, HavePythonsVelocityToTheLastBit) {
  if (!rounds_as_the_golden_numbers()) GTEST_SKIP() << "LibTorch rounds differently on this CPU";
  const Json cases = exact_metadata("velocities");
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const Json& each = cases[i];
    SCOPED_TRACE(each.dump());
    const auto scheduler = Scheduler::from_config(
        dump_json({{"_class_name", each["class"]}, {"prediction_type", "v_prediction"}}));
    if (!each["n"].is_null()) scheduler->set_timesteps(each["n"].get<int64_t>());
    const auto dtype = dtype_from_name(each["dtype"]);
    const auto places = at::tensor(each["places"].get<std::vector<int64_t>>());
    expect_equal(scheduler->get_velocity(seeded(1, {3, 2, 2, 2}, dtype), seeded(2, {3, 2, 2, 2}, dtype),
                                         scheduler->timesteps().index_select(0, places)),
                 exact()["velocity/" + std::to_string(i)]);
  }
}

/// Returns true for cases that Python computes in a way that cannot be reproduced bit for bit.
double step_tolerance(const std::string& class_name) {
  // SciPy integrates the coefficients numerically, in float32.
  if (class_name == "LMSDiscreteScheduler") return 1e-6;
  // Differences are summed by a matrix product, and the linear system of the coefficients is solved in
  // float32.
  if (class_name == "UniPCMultistepScheduler") return 1e-6;
  return 0;
}

class ExactLoops : public testing::TestWithParam<std::string> {};

TEST_P(ExactLoops, RoundAsPythonDoes) {
  if (!rounds_as_the_golden_numbers()) GTEST_SKIP() << "LibTorch rounds differently on this CPU";
  int64_t loops = 0;
  for (const auto& loop : exact_metadata("cases")) {
    if (loop["class"] != GetParam()) continue;
    replay_loop(loop, exact(), step_tolerance(GetParam()));
    ++loops;
  }
  EXPECT_GT(loops, 0);
}

std::vector<std::string> exact_classes() {
  std::vector<std::string> names;
  for (const auto& loop : exact_metadata("cases"))
    if (names.empty() || names.back() != loop["class"]) names.push_back(loop["class"]);
  return names;
}

INSTANTIATE_TEST_SUITE_P(All, ExactLoops, testing::ValuesIn(exact_classes()),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace diffusers::test

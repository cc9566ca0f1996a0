// The cost of a step besides its arithmetic. A step reads nothing back from tensors, allocates only its
// outputs, its history and its noise, and does not wait for a GPU.

#include <algorithm>
#include <functional>
#include <set>

#include <diffusers/schedulers/repaint_scheduler.h>
#include <diffusers/schedulers/score_sde_ve_scheduler.h>

#include <ATen/record_function.h>
#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include "support.h"

#if DIFFUSERS_WITH_CUDA
#include <c10/cuda/CUDAFunctions.h>
#include <torch/cuda.h>
#endif

namespace diffusers::test {
namespace {

struct StepCost {
  std::string class_name;
  /// Returns the maximum number of tensors of the sample's size that one step may allocate.
  int64_t allocations;
};

// A step allocates its outputs (x_{t-1}, x_0 if it is returned, ...), the noise that it draws, and the
// history for later steps. It also allocates the slope of PNDM, IPNDM and DEIS, and the difference of
// predictions of a second-order solver (two for UniPC and SASolver, which also correct the previous step).
// The terms of sums are allocated because their rounding must equal Python's, so products and sums are not
// fused.
const std::vector<StepCost> kCosts{
    {"DDPMScheduler", 4},
    {"DDIMScheduler", 3},
    {"DDIMInverseScheduler", 3},
    {"PNDMScheduler", 4},
    {"LMSDiscreteScheduler", 4},
    {"EulerDiscreteScheduler", 2},
    {"EulerAncestralDiscreteScheduler", 3},
    {"HeunDiscreteScheduler", 3},
    {"KDPM2DiscreteScheduler", 2},
    {"KDPM2AncestralDiscreteScheduler", 3},
    {"DPMSolverMultistepScheduler", 4},
    {"DPMSolverMultistepInverseScheduler", 4},
    {"DPMSolverSinglestepScheduler", 4},
    {"DPMSolverSDEScheduler", 250},  // a sample of Brownian motion visits about 30 levels of a tree, twice
    {"DEISMultistepScheduler", 5},
    {"UniPCMultistepScheduler", 8},
    {"SASolverScheduler", 10},
    {"LCMScheduler", 5},
    {"TCDScheduler", 5},
    {"IPNDMScheduler", 6},
    {"EDMEulerScheduler", 3},
    {"EDMDPMSolverMultistepScheduler", 5},
    {"FlowMatchEulerDiscreteScheduler", 1},
    {"FlowMatchHeunDiscreteScheduler", 2},
    {"CMStochasticIterativeScheduler", 3},
    {"ScoreSdeVeScheduler", 6},  // predictor and corrector
    {"RePaintScheduler", 8},
    {"UnCLIPScheduler", 4},
};

constexpr int64_t kSteps = 8;
const std::vector<int64_t> kSampleShape{4, 3, 32, 32};

std::unique_ptr<Scheduler> scheduler_of(const std::string& class_name, at::Device device) {
  Json json{{"_class_name", class_name}};
  if (class_name == "DPMSolverSDEScheduler") json["noise_sampler_seed"] = 0;
  auto scheduler = Scheduler::from_config(dump_json(json));
  scheduler->set_timesteps(kSteps, {.device = device});
  return scheduler;
}

/// Runs a step of any class, with the additional arguments that the class needs.
Tensor any_step(Scheduler& scheduler, const Tensor& output, const Tensor& t, const Tensor& x,
                const StepOptions& options) {
  if (auto* repaint = dynamic_cast<RePaintScheduler*>(&scheduler))
    return repaint->step(output, t, x, x, output, options).prev_sample;
  if (auto* sde = dynamic_cast<ScoreSdeVeScheduler*>(&scheduler))
    return sde->step_pred(output, t, sde->step_correct(output, x, options).prev_sample, options).prev_sample;
  return scheduler.step(output, t, x, options).prev_sample;
}

/// Records the operations that read a tensor on the host, during its lifetime.
class HostReads {
 public:
  HostReads() {
    reads().clear();
    handle_ = at::addThreadLocalCallback(
        at::RecordFunctionCallback(&HostReads::on_start).scopes({at::RecordScope::FUNCTION}));
  }
  HostReads(const HostReads&) = delete;
  HostReads& operator=(const HostReads&) = delete;
  ~HostReads() { at::removeCallback(handle_); }

  static std::vector<std::string>& reads() {
    static std::vector<std::string> reads;
    return reads;
  }

 private:
  static std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction& function) {
    const std::string_view name = function.name();
    for (const std::string_view read :
         {"aten::item", "aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal", "aten::nonzero"})
      if (name == read) reads().emplace_back(name);
    return nullptr;
  }

  at::CallbackHandle handle_;
};

/// Records the operations that read a tensor on the host or copy host memory to a device, during its
/// lifetime. The device is "meta", which exists without a GPU. A host tensor among the arguments of an
/// operation would have to be copied to a GPU. A number is passed as a 0-dim tensor and needs no copy.
class HostTraffic {
 public:
  HostTraffic() {
    seen().clear();
    handle_ = at::addThreadLocalCallback(at::RecordFunctionCallback(&HostTraffic::on_start)
                                             .needsInputs(true)
                                             .scopes({at::RecordScope::FUNCTION}));
  }
  HostTraffic(const HostTraffic&) = delete;
  HostTraffic& operator=(const HostTraffic&) = delete;
  ~HostTraffic() { at::removeCallback(handle_); }

  static std::vector<std::string>& seen() {
    static std::vector<std::string> seen;
    return seen;
  }

 private:
  static bool is_of_host(const c10::IValue& value) {
    if (value.isTensor()) {
      const Tensor& tensor = value.toTensor();
      return tensor.defined() && tensor.is_cpu() && tensor.dim() > 0;
    }
    if (!value.isTensorList()) return false;
    for (const Tensor& tensor : value.toTensorVector())
      if (is_of_host(tensor)) return true;
    return false;
  }

  static std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction& function) {
    const std::string_view name = function.name();
    for (const std::string_view read :
         {"aten::item", "aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal", "aten::nonzero"})
      if (name == read) seen().emplace_back(name);
    for (const c10::IValue& input : function.inputs())
      if (is_of_host(input)) seen().push_back(std::string(name) + " of a tensor on the host");
    return nullptr;
  }

  at::CallbackHandle handle_;
};

/// Counts allocations of at least half a sample.
class AllocationCounter : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, int64_t size, size_t, size_t, c10::Device) override {
    if (size >= static_cast<int64_t>(4 * 3 * 32 * 32 * sizeof(float) / 2)) ++count;
  }
  bool memoryProfilingEnabled() const override { return true; }

  int64_t count = 0;
};

class StepsOf : public testing::TestWithParam<StepCost> {};

TEST_P(StepsOf, ReadNothingBackFromTensors) {
  const auto scheduler = scheduler_of(GetParam().class_name, at::kCPU);
  const Tensor output = seeded(1, kSampleShape);
  Tensor x = seeded(0, kSampleShape);
  const StepOptions options{.generator = make_generator(7)};
  const Timesteps timesteps = scheduler->timesteps();
  const HostReads watch;
  for (const Tensor& t : timesteps) {
    scheduler->scale_model_input(x, t);
    x = any_step(*scheduler, output, t, x, options);
  }
  EXPECT_EQ(HostReads::reads(), std::vector<std::string>{});
  // The recorder itself works.
  x.sum().item();
  EXPECT_FALSE(HostReads::reads().empty());
}

TEST_P(StepsOf, AllocateWhatTheyNeedAndNoMore) {
  const auto scheduler = scheduler_of(GetParam().class_name, at::kCPU);
  const Tensor output = seeded(1, kSampleShape);
  Tensor x = seeded(0, kSampleShape);
  const StepOptions options{.generator = make_generator(7)};
  const Timesteps timesteps = scheduler->timesteps();
  std::vector<int64_t> counts;
  for (const Tensor& t : timesteps) {
    scheduler->scale_model_input(x, t);
    const auto counter = std::make_shared<AllocationCounter>();
    {
      const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, counter);
      x = any_step(*scheduler, output, t, x, options);
    }
    counts.push_back(counter->count);
  }
  const int64_t most = *std::max_element(counts.begin(), counts.end());
  EXPECT_LE(most, GetParam().allocations) << testing::PrintToString(counts);
  EXPECT_GE(most, 1);
}

/// Computes noise, velocity and model input of a batch whose timesteps are on the device.
TEST_P(StepsOf, NoiseWithoutTrafficBetweenHostAndDevice) {
  const auto scheduler = scheduler_of(GetParam().class_name, at::kMeta);
  const Timesteps own = scheduler->timesteps();
  const auto on_device = at::TensorOptions(at::kMeta);
  const Tensor x = at::empty(kSampleShape, on_device.dtype(at::kFloat));
  const Tensor noise = at::empty_like(x);
  const auto drawn = at::empty({kSampleShape[0]}, on_device.dtype(at::kLong));
  const std::vector<std::pair<std::string, Tensor>> batches{
      {"a slice of timesteps()", own.slice(0, 2, 2 + kSampleShape[0])},
      {"one of timesteps()", own.slice(0, 3, 4)},
      {"some of timesteps()", own.gather(0, drawn)},
      {"training timesteps", drawn},
  };
  const std::vector<std::pair<std::string, std::function<void(const Tensor&)>>> calls{
      {"add_noise", [&](const Tensor& t) { scheduler->add_noise(x, noise, t); }},
      {"get_velocity", [&](const Tensor& t) { scheduler->get_velocity(x, noise, t); }},
      {"scale_noise", [&](const Tensor& t) { scheduler->scale_noise(x, t, noise); }},
  };
  const Json classes = parse_json(load_golden("schedulers.safetensors").metadata.at("classes"), "classes");
  const auto python = std::find_if(classes.begin(), classes.end(), [](const Json& each) {
    return each["class"].get<std::string>() == GetParam().class_name;
  });
  ASSERT_NE(python, classes.end());
  const auto members = (*python)["members"].get<std::set<std::string>>();
  for (const auto& [what, call] : calls) {
    int64_t watched = 0;
    for (const auto& [which, t] : batches) {
      SCOPED_TRACE(what + " at " + which);
      try {
        call(t);  // uploads its tables
      } catch (const Error&) {
        continue;  // the class has no such method, or takes only one timestep or only integral timesteps
      }
      const HostTraffic watch;
      call(t);
      EXPECT_EQ(HostTraffic::seen(), std::vector<std::string>{});
      ++watched;
    }
    // RePaint's add_noise throws NotImplementedError in Python.
    if (members.count(what) > 0 && GetParam().class_name != "RePaintScheduler") {
      EXPECT_GE(watched, 1) << what;
    }
  }
  scheduler->scale_model_input(x, own[3]);
  const HostTraffic watch;
  scheduler->scale_model_input(x, own[3]);
  EXPECT_EQ(HostTraffic::seen(), std::vector<std::string>{});
  // The recorder itself works.
  at::ones({2}).to(at::kMeta);
  EXPECT_FALSE(HostTraffic::seen().empty());
}

TEST_P(StepsOf, NeverWaitForTheGpu) {
#if DIFFUSERS_WITH_CUDA
  if (!torch::cuda::is_available()) GTEST_SKIP() << "no CUDA device";
  const auto scheduler = scheduler_of(GetParam().class_name, at::kCUDA);
  const Tensor output = seeded(1, kSampleShape).to(at::kCUDA);
  const Tensor noise = seeded(2, kSampleShape).to(at::kCUDA);
  Tensor x = seeded(0, kSampleShape).to(at::kCUDA);
  const Timesteps timesteps = scheduler->timesteps();
  const bool noises =
      GetParam().class_name != "ScoreSdeVeScheduler" && GetParam().class_name != "RePaintScheduler" &&
      GetParam().class_name != "DDIMInverseScheduler" && GetParam().class_name != "IPNDMScheduler";
  const bool flow = GetParam().class_name.starts_with("FlowMatch");
  struct Strict {
    Strict() { c10::cuda::warning_state().set_sync_debug_mode(c10::cuda::SyncDebugMode::L_ERROR); }
    ~Strict() { c10::cuda::warning_state().set_sync_debug_mode(c10::cuda::SyncDebugMode::L_DISABLED); }
  };
  const auto run = [&](const StepOptions& options) {
    const auto fresh = scheduler->clone();
    const Strict strict;
    for (const Tensor& t : timesteps) {
      // Inpainting adds noise to the known part in every step.
      if (noises && flow) fresh->scale_noise(x, t.reshape({1}), noise);
      if (noises && !flow) fresh->add_noise(x, noise, t.reshape({1}));
      fresh->scale_model_input(x, t);
      x = any_step(*fresh, output, t, x, options);
    }
  };
  EXPECT_NO_THROW(run({}));
  EXPECT_NO_THROW(run({.generator = make_generator(7)}));
  const Strict strict;
  EXPECT_ANY_THROW(x.sum().item());  // the mode itself works
#else
  GTEST_SKIP() << "needs a build with DIFFUSERS_WITH_CUDA";
#endif
}

INSTANTIATE_TEST_SUITE_P(All, StepsOf, testing::ValuesIn(kCosts),
                         [](const auto& test) { return test.param.class_name; });

}  // namespace
}  // namespace diffusers::test

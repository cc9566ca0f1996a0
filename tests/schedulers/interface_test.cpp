// The interface of every class against the Python classes, as recorded by tests/reference/schedulers.py:
// config fields and their defaults, options of set_timesteps and step, and members.

#include <algorithm>
#include <functional>
#include <set>

#include <diffusers/schedulers/cm_stochastic_iterative_scheduler.h>
#include <diffusers/schedulers/ddim_inverse_scheduler.h>
#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/schedulers/deis_multistep_scheduler.h>
#include <diffusers/schedulers/dpmsolver_multistep_inverse_scheduler.h>
#include <diffusers/schedulers/dpmsolver_multistep_scheduler.h>
#include <diffusers/schedulers/dpmsolver_sde_scheduler.h>
#include <diffusers/schedulers/dpmsolver_singlestep_scheduler.h>
#include <diffusers/schedulers/edm_dpmsolver_multistep_scheduler.h>
#include <diffusers/schedulers/edm_euler_scheduler.h>
#include <diffusers/schedulers/euler_ancestral_discrete_scheduler.h>
#include <diffusers/schedulers/euler_discrete_scheduler.h>
#include <diffusers/schedulers/flow_match_euler_discrete_scheduler.h>
#include <diffusers/schedulers/flow_match_heun_discrete_scheduler.h>
#include <diffusers/schedulers/heun_discrete_scheduler.h>
#include <diffusers/schedulers/ipndm_scheduler.h>
#include <diffusers/schedulers/kdpm2_ancestral_discrete_scheduler.h>
#include <diffusers/schedulers/kdpm2_discrete_scheduler.h>
#include <diffusers/schedulers/lcm_scheduler.h>
#include <diffusers/schedulers/lms_discrete_scheduler.h>
#include <diffusers/schedulers/pndm_scheduler.h>
#include <diffusers/schedulers/repaint_scheduler.h>
#include <diffusers/schedulers/sasolver_scheduler.h>
#include <diffusers/schedulers/score_sde_ve_scheduler.h>
#include <diffusers/schedulers/tcd_scheduler.h>
#include <diffusers/schedulers/unclip_scheduler.h>
#include <diffusers/schedulers/unipc_multistep_scheduler.h>

#include "support.h"

namespace diffusers::test {
namespace {

const Json& interfaces() {
  static const Json interfaces =
      parse_json(load_golden("schedulers.safetensors").metadata.at("classes"), "classes");
  return interfaces;
}

const Json& interface_of(std::string_view class_name) {
  return *std::find_if(interfaces().begin(), interfaces().end(),
                       [&](const Json& each) { return each["class"].get<std::string>() == class_name; });
}

bool holds(const Json& list, const std::string& name) {
  return std::find(list.begin(), list.end(), name) != list.end();
}

template <class S>
class EveryScheduler : public testing::Test {};

using Classes = testing::Types<
    DDPMScheduler, DDIMScheduler, PNDMScheduler, LMSDiscreteScheduler, EulerDiscreteScheduler,
    EulerAncestralDiscreteScheduler, HeunDiscreteScheduler, KDPM2DiscreteScheduler,
    KDPM2AncestralDiscreteScheduler, DPMSolverMultistepScheduler, DPMSolverMultistepInverseScheduler,
    DPMSolverSinglestepScheduler, DPMSolverSDEScheduler, DEISMultistepScheduler, UniPCMultistepScheduler,
    SASolverScheduler, DDIMInverseScheduler, LCMScheduler, TCDScheduler, IPNDMScheduler, EDMEulerScheduler,
    EDMDPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler,
    CMStochasticIterativeScheduler, ScoreSdeVeScheduler, RePaintScheduler, UnCLIPScheduler>;

struct ClassNames {
  template <class S>
  static std::string GetName(int) {
    return std::string(S::kClassName);
  }
};

TYPED_TEST_SUITE(EveryScheduler, Classes, ClassNames);

TYPED_TEST(EveryScheduler, HasPythonsConfigFieldsInPythonsOrder) {
  EXPECT_EQ(TypeParam::config_keys(),
            interface_of(TypeParam::kClassName)["fields"].template get<std::vector<std::string>>());
}

TYPED_TEST(EveryScheduler, SavesPythonsDefaultConfig) {
  const TemporaryFolder folder;
  TypeParam().save_pretrained(folder / "scheduler");
  EXPECT_EQ(read_text_file(folder / "scheduler/scheduler_config.json"),
            interface_of(TypeParam::kClassName)["saved"].template get<std::string>());
}

TYPED_TEST(EveryScheduler, HasPythonsAttributes) {
  const TypeParam scheduler;
  const Json& python = interface_of(TypeParam::kClassName);
  EXPECT_EQ(scheduler.order(), python["order"].template get<int64_t>());
  const double sigma = python["init_noise_sigma"];
  EXPECT_NEAR(scheduler.init_noise_sigma(), sigma, 1e-6 * sigma);
}

/// Returns true if a call fails because the class does not support it.
bool is_lacking(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return std::string_view(error.what()).find(" has no ") != std::string_view::npos;
  }
  return false;
}

TYPED_TEST(EveryScheduler, TakesTheOptionsThatPythonTakesAndRefusesTheOthersByName) {
  const Json& python = interface_of(TypeParam::kClassName);
  const std::vector<std::pair<std::string, SetTimestepsOptions>> set_timesteps_options{
      {"original_inference_steps", {.original_inference_steps = 50}},
      {"sigmas", {.sigmas = {0.9, 0.5, 0.1}}},
      {"mu", {.mu = 0.5}},
      {"timesteps", {.timesteps = {90, 50, 10}}},
      {"strength", {.strength = 0.5}},
      {"num_train_timesteps", {.num_train_timesteps = 500}},
  };
  for (const auto& [name, options] : set_timesteps_options) {
    SCOPED_TRACE(name);
    // Unlike in Python, DDIM takes custom timesteps, for quadratic spacing.
    const bool known = holds(python["set_timesteps"], name) ||
                       (name == "timesteps" && TypeParam::kClassName == DDIMScheduler::kClassName);
    EXPECT_EQ(is_lacking([&, &o = options] { TypeParam().set_timesteps(10, o); }), !known);
  }

  const Tensor x = seeded(0, {2, 3, 2, 2});
  const std::vector<std::pair<std::string, StepOptions>> step_options{
      {"eta", {.eta = 0.5}},
      {"use_clipped_model_output", {.use_clipped_model_output = true}},
      {"s_churn", {.s_churn = 1}},
      {"s_tmin", {.s_tmin = 0.5}},
      {"s_tmax", {.s_tmax = 9}},
      {"s_noise", {.s_noise = 0.9}},
      {"variance_noise", {.variance_noise = x}},
      {"order", {.order = 2}},
  };
  for (const auto& [name, options] : step_options) {
    SCOPED_TRACE(name);
    TypeParam scheduler;
    scheduler.set_timesteps(10);
    // An option without effect is refused, such as s_churn of FlowMatchEuler or variance_noise of a
    // deterministic solver.
    const bool without_effect = TypeParam::kClassName == FlowMatchEulerDiscreteScheduler::kClassName ||
                                TypeParam::kClassName.starts_with("DPMSolverMultistep");
    const bool known = holds(python["step"], name) && !without_effect;
    if constexpr (std::is_same_v<TypeParam, ScoreSdeVeScheduler>) {
      EXPECT_EQ(is_lacking([&, &o = options] { scheduler.step_correct(x, x, o); }), !known);
    } else if constexpr (std::is_same_v<TypeParam, RePaintScheduler>) {
      EXPECT_EQ(is_lacking([&, &o = options] { scheduler.step(x, scheduler.timesteps()[0], x, x, x, o); }),
                !known);
    } else {
      EXPECT_EQ(is_lacking([&, &o = options] { scheduler.step(x, scheduler.timesteps()[0], x, o); }), !known);
    }
  }
}

TYPED_TEST(EveryScheduler, HasPythonsMembers) {
  const Json& python = interface_of(TypeParam::kClassName);
  const Tensor x = seeded(0, {2, 3, 2, 2});
  TypeParam scheduler;
  scheduler.set_timesteps(10);
  const Tensor t = scheduler.timesteps().slice(0, 0, 1);
  const std::vector<std::pair<std::string, std::function<void()>>> members{
      {"add_noise", [&] { scheduler.add_noise(x, x, t); }},
      {"get_velocity", [&] { scheduler.get_velocity(x, x, t); }},
      {"scale_noise", [&] { scheduler.scale_noise(x, t, x); }},
      {"set_begin_index", [&] { scheduler.set_begin_index(1); }},
      {"betas", [&] { scheduler.betas(); }},
      {"alphas_cumprod", [&] { scheduler.alphas_cumprod(); }},
      {"final_alpha_cumprod", [&] { scheduler.final_alpha_cumprod(); }},
      {"sigmas", [&] { scheduler.sigmas(); }},
  };
  for (const auto& [name, call] : members) {
    SCOPED_TRACE(name);
    if (!holds(python["members"], name)) continue;
    // RePaint's add_noise throws NotImplementedError in Python.
    if (name == "add_noise" && TypeParam::kClassName == RePaintScheduler::kClassName) continue;
    EXPECT_FALSE(is_lacking(call));
  }
}

/// The classes that Python lists as compatible (KarrasDiffusionSchedulers), and the other classes that work
/// with Stable Diffusion's models.
const std::set<std::string_view> kCompatible{"DDPMScheduler",
                                             "DDIMScheduler",
                                             "PNDMScheduler",
                                             "LMSDiscreteScheduler",
                                             "EulerDiscreteScheduler",
                                             "EulerAncestralDiscreteScheduler",
                                             "HeunDiscreteScheduler",
                                             "KDPM2DiscreteScheduler",
                                             "KDPM2AncestralDiscreteScheduler",
                                             "DPMSolverMultistepScheduler",
                                             "DPMSolverMultistepInverseScheduler",
                                             "DPMSolverSinglestepScheduler",
                                             "DPMSolverSDEScheduler",
                                             "DEISMultistepScheduler",
                                             "UniPCMultistepScheduler",
                                             "SASolverScheduler",
                                             "DDIMInverseScheduler",
                                             "LCMScheduler",
                                             "TCDScheduler"};

TYPED_TEST(EveryScheduler, IsMadeFromTheConfigOfEveryCompatibleOne) {
  if (kCompatible.count(TypeParam::kClassName) == 0) return;
  for (const std::string_view source : kCompatible) {
    SCOPED_TRACE(source);
    const auto made = Scheduler::from_config(dump_json({{"_class_name", source},
                                                        {"prediction_type", "v_prediction"},
                                                        {"beta_schedule", "scaled_linear"},
                                                        {"beta_start", 0.00085},
                                                        {"beta_end", 0.012}}));
    auto scheduler = TypeParam::from_config(made->config_json());
    EXPECT_EQ(scheduler.prediction_type_name(), "v_prediction");
    EXPECT_TRUE(scheduler.betas().equal(made->betas()));
    scheduler.set_timesteps(10);
    const Tensor x = seeded(0, {2, 3, 2, 2});
    EXPECT_TRUE(
        scheduler.step(x, scheduler.timesteps()[0], x).prev_sample.isfinite().all().template item<bool>());
  }
}

// The errors of every class name the cause.

TYPED_TEST(EveryScheduler, NamesATimestepThatItDoesNotHave) {
  if constexpr (!std::is_same_v<TypeParam, ScoreSdeVeScheduler>) {
    const Tensor x = seeded(0, {2, 3, 2, 2});
    TypeParam scheduler;
    scheduler.set_timesteps(10);
    for (const double t : {123456.0, -5.0}) {
      expect_throws_with<TensorError>(
          [&] {
            if constexpr (std::is_same_v<TypeParam, RePaintScheduler>) {
              scheduler.step(x, at::scalar_tensor(t, at::kLong), x, x, x);
            } else {
              scheduler.step(x, at::scalar_tensor(t, at::kDouble), x);
            }
          },
          "timestep");
    }
  }
}

TYPED_TEST(EveryScheduler, NamesAModelOutputOfTheWrongWidth) {
  if constexpr (!std::is_same_v<TypeParam, ScoreSdeVeScheduler> &&
                !std::is_same_v<TypeParam, RePaintScheduler>) {
    const Tensor x = seeded(0, {2, 3, 2, 2});
    const auto step = [&](auto& scheduler, const Tensor& output) {
      scheduler.set_timesteps(10);
      scheduler.step(output, scheduler.timesteps()[0], x);
    };
    TypeParam scheduler;
    expect_throws_with<TensorError>([&] { step(scheduler, seeded(0, {2, 6, 2, 2})); }, "[2, 6, 2, 2]");
    if constexpr (requires(typename TypeParam::Config config) { config.variance_type; }) {
      TypeParam learned({.variance_type = VarianceType::kLearnedRange});
      expect_throws_with<TensorError>([&] { step(learned, x); }, "[2, 6, 2, 2]");
    }
  }
}

TYPED_TEST(EveryScheduler, ThatCannotStartBeforeSetTimestepsSaysSo) {
  const Tensor x = seeded(0, {2, 3, 2, 2});
  TypeParam scheduler;
  // The other classes have a run over all training timesteps after construction, as in Python.
  const std::set<std::string_view> need{"DDIMScheduler",
                                        "DDIMInverseScheduler",
                                        "PNDMScheduler",
                                        "DPMSolverMultistepScheduler",
                                        "DPMSolverMultistepInverseScheduler",
                                        "DPMSolverSinglestepScheduler",
                                        "DEISMultistepScheduler",
                                        "UniPCMultistepScheduler",
                                        "SASolverScheduler",
                                        "LCMScheduler",
                                        "TCDScheduler",
                                        "EDMDPMSolverMultistepScheduler"};
  if (need.count(TypeParam::kClassName) > 0)
    expect_throws_with<Error>([&] { scheduler.Scheduler::step(x, 999, x); }, "set_timesteps");
}

/// x_0 cannot be computed from epsilon at a level without signal.
TYPED_TEST(EveryScheduler, RefusesEpsilonWithoutSignal) {
  // DDIMInverse reaches a level without signal only at its end.
  if constexpr (!std::is_same_v<TypeParam, DDIMInverseScheduler> &&
                requires(typename TypeParam::Config config) {
                  config.rescale_betas_zero_snr;
                  config.clip_sample;
                }) {
    TypeParam scheduler({.clip_sample = false,
                         .timestep_spacing = TimestepSpacing::kTrailing,
                         .rescale_betas_zero_snr = true});
    scheduler.set_timesteps(10);
    const Tensor x = seeded(0, {2, 3, 2, 2});
    const Timesteps timesteps = scheduler.timesteps();
    expect_throws_with<ConfigError>(
        [&] {
          for (const auto t : timesteps) scheduler.step(x, t, x);
        },
        "epsilon");
  }
}

}  // namespace
}  // namespace diffusers::test

#include "schedulers/registry.h"

#include <algorithm>
#include <array>
#include <mutex>
#include <utility>

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
#include <diffusers/schedulers/register_scheduler.h>
#include <diffusers/schedulers/repaint_scheduler.h>
#include <diffusers/schedulers/sasolver_scheduler.h>
#include <diffusers/schedulers/score_sde_ve_scheduler.h>
#include <diffusers/schedulers/tcd_scheduler.h>
#include <diffusers/schedulers/unclip_scheduler.h>
#include <diffusers/schedulers/unipc_multistep_scheduler.h>

#include "core/require.h"
#include "schedulers/scheduler_config.h"

namespace diffusers {
namespace {

struct LibraryClass {
  std::string_view class_name;
  bool is_karras_compatible;
  std::unique_ptr<Scheduler> (*create)(std::string_view json);
  std::vector<std::string> (*config_keys)();
};

template <class S>
constexpr LibraryClass registered(bool is_karras_compatible) {
  return {S::kClassName, is_karras_compatible,
          [](std::string_view json) -> std::unique_ptr<Scheduler> {
            return std::make_unique<S>(S::from_config(json));
          },
          &S::config_keys};
}

constexpr std::array kSchedulers{
    registered<DDPMScheduler>(true),
    registered<DDIMScheduler>(true),
    registered<PNDMScheduler>(true),
    registered<LMSDiscreteScheduler>(true),
    registered<EulerDiscreteScheduler>(true),
    registered<EulerAncestralDiscreteScheduler>(true),
    registered<HeunDiscreteScheduler>(true),
    registered<KDPM2DiscreteScheduler>(true),
    registered<KDPM2AncestralDiscreteScheduler>(true),
    registered<DPMSolverMultistepScheduler>(true),
    registered<DPMSolverMultistepInverseScheduler>(true),
    registered<DPMSolverSinglestepScheduler>(true),
    registered<DPMSolverSDEScheduler>(true),
    registered<DEISMultistepScheduler>(true),
    registered<UniPCMultistepScheduler>(true),
    registered<SASolverScheduler>(true),
    registered<DDIMInverseScheduler>(false),
    registered<LCMScheduler>(false),
    registered<TCDScheduler>(false),
    registered<IPNDMScheduler>(false),
    registered<EDMEulerScheduler>(false),
    registered<EDMDPMSolverMultistepScheduler>(false),
    registered<FlowMatchEulerDiscreteScheduler>(false),
    registered<FlowMatchHeunDiscreteScheduler>(false),
    registered<CMStochasticIterativeScheduler>(false),
    registered<ScoreSdeVeScheduler>(false),
    registered<RePaintScheduler>(false),
    registered<UnCLIPScheduler>(false),
};

/// The classes that register_scheduler has added.
struct AddedClasses {
  std::mutex mutex;
  std::vector<SchedulerClass> classes;
};

AddedClasses& added_classes() {
  static AddedClasses added;
  return added;
}

std::optional<SchedulerClass> find_class(std::string_view class_name) {
  for (const LibraryClass& each : kSchedulers)
    if (each.class_name == class_name)
      return SchedulerClass{std::string(each.class_name), each.create, each.config_keys()};
  AddedClasses& added = added_classes();
  const std::lock_guard lock(added.mutex);
  for (const SchedulerClass& each : added.classes)
    if (each.class_name == class_name) return each;
  return std::nullopt;
}

}  // namespace

inline namespace internal {
namespace scheduler_registry {

bool is_karras_compatible(std::string_view class_name) {
  return std::any_of(kSchedulers.begin(), kSchedulers.end(), [&](const LibraryClass& each) {
    return each.class_name == class_name && each.is_karras_compatible;
  });
}

std::optional<std::vector<std::string>> config_keys(std::string_view class_name) {
  std::optional<SchedulerClass> found = find_class(class_name);
  return found ? std::optional(std::move(found->config_keys)) : std::nullopt;
}

}  // namespace scheduler_registry
}  // namespace internal

std::vector<std::string> registered_schedulers() {
  std::vector<std::string> names;
  for (const LibraryClass& each : kSchedulers) names.emplace_back(each.class_name);
  AddedClasses& added = added_classes();
  const std::lock_guard lock(added.mutex);
  for (const SchedulerClass& each : added.classes) names.push_back(each.class_name);
  return names;
}

void register_scheduler(SchedulerClass scheduler_class) {
  require<ConfigError>(!scheduler_class.class_name.empty(), "register_scheduler: class_name is empty");
  require<ConfigError>(static_cast<bool>(scheduler_class.create),
                       "register_scheduler: {} has no create function", scheduler_class.class_name);
  AddedClasses& added = added_classes();
  const std::lock_guard lock(added.mutex);
  const auto has_name = [&](const auto& each) { return each.class_name == scheduler_class.class_name; };
  require<ConfigError>(std::none_of(kSchedulers.begin(), kSchedulers.end(), has_name) &&
                           std::none_of(added.classes.begin(), added.classes.end(), has_name),
                       "register_scheduler: there is a scheduler class {} already",
                       scheduler_class.class_name);
  added.classes.push_back(std::move(scheduler_class));
}

std::unique_ptr<Scheduler> Scheduler::from_config(std::string_view json, const ConfigOverrides& overrides) {
  const std::string class_name = scheduler_config::class_name_of(json);
  const std::optional<SchedulerClass> found = find_class(class_name);
  if (!found)
    fail<ConfigError>("scheduler config: _class_name is \"{}\", expected one of: {}", class_name,
                      fmt::join(registered_schedulers(), ", "));
  return overrides.empty() ? found->create(json)
                           : found->create(scheduler_config::with_overrides(json, overrides, class_name,
                                                                            found->config_keys));
}

}  // namespace diffusers

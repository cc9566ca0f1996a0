#include "schedulers_by_name.h"

#include <array>
#include <string_view>

#include <diffusers/core/error.h>
#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/schedulers/deis_multistep_scheduler.h>
#include <diffusers/schedulers/dpmsolver_multistep_scheduler.h>
#include <diffusers/schedulers/dpmsolver_sde_scheduler.h>
#include <diffusers/schedulers/dpmsolver_singlestep_scheduler.h>
#include <diffusers/schedulers/euler_ancestral_discrete_scheduler.h>
#include <diffusers/schedulers/euler_discrete_scheduler.h>
#include <diffusers/schedulers/heun_discrete_scheduler.h>
#include <diffusers/schedulers/kdpm2_ancestral_discrete_scheduler.h>
#include <diffusers/schedulers/kdpm2_discrete_scheduler.h>
#include <diffusers/schedulers/lcm_scheduler.h>
#include <diffusers/schedulers/lms_discrete_scheduler.h>
#include <diffusers/schedulers/pndm_scheduler.h>
#include <diffusers/schedulers/sasolver_scheduler.h>
#include <diffusers/schedulers/tcd_scheduler.h>
#include <diffusers/schedulers/unipc_multistep_scheduler.h>

using namespace diffusers;

namespace {

struct NamedScheduler {
  std::string_view name;
  std::string_view class_name;
  std::unique_ptr<Scheduler> (*make)(const std::string& config);
};

template <class S>
constexpr NamedScheduler named(std::string_view name) {
  return {name, S::kClassName, [](const std::string& config) -> std::unique_ptr<Scheduler> {
            return std::make_unique<S>(S::from_config(config));
          }};
}

constexpr std::array kSchedulers{
    named<DDPMScheduler>("ddpm"),
    named<DDIMScheduler>("ddim"),
    named<PNDMScheduler>("pndm"),
    named<LMSDiscreteScheduler>("lms"),
    named<EulerDiscreteScheduler>("euler"),
    named<EulerAncestralDiscreteScheduler>("euler_ancestral"),
    named<HeunDiscreteScheduler>("heun"),
    named<KDPM2DiscreteScheduler>("kdpm2"),
    named<KDPM2AncestralDiscreteScheduler>("kdpm2_ancestral"),
    named<DPMSolverMultistepScheduler>("dpmsolver_multistep"),
    named<DPMSolverSinglestepScheduler>("dpmsolver_singlestep"),
    named<DPMSolverSDEScheduler>("dpmsolver_sde"),
    named<DEISMultistepScheduler>("deis"),
    named<UniPCMultistepScheduler>("unipc"),
    named<SASolverScheduler>("sasolver"),
    named<LCMScheduler>("lcm"),
    named<TCDScheduler>("tcd"),
};

}  // namespace

std::unique_ptr<Scheduler> scheduler_by_name(const std::string& name, const Scheduler& trained) {
  for (const NamedScheduler& entry : kSchedulers)
    if (name == entry.name || name == entry.class_name) return entry.make(trained.config_json());
  throw ConfigError("--scheduler is \"" + name + "\", expected one of: " + scheduler_names() +
                    ", or the name of its class, such as DDIMScheduler");
}

std::string scheduler_names() {
  std::string names;
  for (const NamedScheduler& entry : kSchedulers)
    names += (names.empty() ? "" : ", ") + std::string(entry.name);
  return names;
}

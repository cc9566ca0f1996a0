#include "pipelines/scheduler_traits.h"

#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/schedulers/euler_discrete_scheduler.h>
#include <diffusers/schedulers/flow_match_euler_discrete_scheduler.h>
#include <diffusers/schedulers/flow_match_heun_discrete_scheduler.h>
#include <diffusers/schedulers/pndm_scheduler.h>
#include <diffusers/schedulers/tcd_scheduler.h>

#include <gtest/gtest.h>

namespace diffusers {
namespace {

TEST(SchedulerTraits, TellWhoTakesEta) {
  EXPECT_TRUE(takes_eta(DDIMScheduler()));
  EXPECT_TRUE(takes_eta(TCDScheduler()));
  EXPECT_FALSE(takes_eta(DDPMScheduler()));
  EXPECT_FALSE(takes_eta(EulerDiscreteScheduler()));
}

TEST(SchedulerTraits, TellFlowMatching) {
  EXPECT_TRUE(adds_noise_by_scale_noise(FlowMatchEulerDiscreteScheduler()));
  EXPECT_TRUE(adds_noise_by_scale_noise(FlowMatchHeunDiscreteScheduler()));
  EXPECT_FALSE(adds_noise_by_scale_noise(EulerDiscreteScheduler()));
}

TEST(SchedulerTraits, CorrectTheConfigForLatents) {
  const auto corrected = scheduler_for_latents(DDIMScheduler({.num_train_timesteps = 77}));
  const auto& config = dynamic_cast<const DDIMScheduler&>(*corrected).config();
  EXPECT_EQ(config.steps_offset, 1);
  EXPECT_FALSE(config.clip_sample);
  EXPECT_EQ(config.num_train_timesteps, 77);
  const PNDMScheduler fine({.steps_offset = 1});
  EXPECT_EQ(scheduler_for_latents(fine)->config_json(), fine.config_json());
}

}  // namespace
}  // namespace diffusers

#include "pipelines/scheduler_traits.h"

#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/schedulers/pndm_scheduler.h>

#include <gtest/gtest.h>

namespace diffusers {
namespace {

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

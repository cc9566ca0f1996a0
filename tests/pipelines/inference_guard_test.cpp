#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/pipelines/inference_guard.h>
#include <diffusers/pipelines/stable_diffusion_pipeline.h>
#include <diffusers/text/clip_text_model.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers {
namespace {

TEST(InferenceGuard, PutsAllModelsIntoEvalModeWithoutGradients) {
  auto pipeline = StableDiffusionPipeline::from_pretrained(test::golden_path("tiny_stable_diffusion"));
  pipeline.unet()->train();
  pipeline.vae()->train();
  pipeline.unet()->modules().back()->eval();
  {
    const InferenceGuard guard(pipeline);
    EXPECT_FALSE(at::GradMode::is_enabled());
    EXPECT_FALSE(pipeline.unet()->is_training());
    EXPECT_FALSE(pipeline.vae()->is_training());
  }
  EXPECT_TRUE(at::GradMode::is_enabled());
  EXPECT_TRUE(pipeline.unet()->is_training());
  EXPECT_TRUE(pipeline.vae()->is_training());
  EXPECT_FALSE(pipeline.text_encoder()->is_training());
  EXPECT_FALSE(pipeline.unet()->modules().back()->is_training());
}

TEST(InferenceGuard, KeepsAModelThatACallbackReplaces) {
  auto pipeline = StableDiffusionPipeline::from_pretrained(test::golden_path("tiny_stable_diffusion"));
  UNet2DConditionModel other(pipeline.unet()->config());
  const std::weak_ptr<torch::nn::Module> first = pipeline.unet().ptr();
  {
    const InferenceGuard guard(pipeline);
    pipeline.unet() = other;
    EXPECT_FALSE(first.expired());
  }
  EXPECT_TRUE(first.expired());
  EXPECT_TRUE(other->is_training());
}

}  // namespace
}  // namespace diffusers

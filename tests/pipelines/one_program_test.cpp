// A program that trains and samples, with every header of the library in one translation unit.

#include <string>
#include <vector>

#include <diffusers/diffusers.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "private_headers.h"
#include "support/golden.h"
#include "training/quick_training.h"

namespace diffusers {
namespace {

TEST(OneProgram, TrainsWithLabelsAndDrawsFromPrompts) {
  const test::Golden golden = test::load_golden("stable_diffusion.safetensors");
  auto pipeline = StableDiffusionImg2ImgPipeline::from_pretrained(test::golden_path("tiny_stable_diffusion"));
  const StableDiffusionImg2ImgPipelineOptions options{.prompt = "a red cat",
                                                      .image = golden["image"],
                                                      .strength = 0.6,
                                                      .num_inference_steps = 5,
                                                      .negative_prompt = "a blue dog",
                                                      .generator = make_generator(7)};
  for (int round = 0; round < 2; ++round) {
    test::LabelledNet model;
    const test::TemporaryFolder folder;
    TrainingConfig config = test::quiet_config(folder.path());
    config.cpu_data_parallel = 2;
    Trainer(model, DDPMScheduler(), config).train(test::TinyImages(12, /*has_labels=*/true));
    ASSERT_TRUE(model->last_labels.defined());

    StableDiffusionImg2ImgPipelineOptions again = options;
    again.generator = make_generator(7);
    test::expect_close(pipeline(again).images, golden["img2img_pndm"], 1e-4, 1e-4, "img2img_pndm");
  }
}

/// Training and pipelines use the same conditioning type in one program.
TEST(OneProgram, HasOneConditioningForTrainingAndPipelines) {
  for (int i = 0; i < 3; ++i) {
    const Conditioning labels{.class_labels = at::arange(3)};
    const EncodedPrompt prompt{
        .batch_size = 2, .is_guided = true, .conditioning = {.encoder_hidden_states = at::zeros({4, 2, 3})}};
    const std::vector<Conditioning> many(4, labels);
    const std::vector<EncodedPrompt> prompts(4, prompt);
    EXPECT_TRUE(many[3].class_labels.is_same(labels.class_labels));
    EXPECT_EQ(prompts[3].batch_size, 2);
    const Tensor& states = prompt.conditioning.encoder_hidden_states;
    EXPECT_TRUE(prompts[3].conditioning.encoder_hidden_states.is_same(states));
    EXPECT_EQ(labels.class_labels.use_count(), 5);
    EXPECT_EQ(states.use_count(), 5);
  }
}

}  // namespace
}  // namespace diffusers

// LoRA files that Python wrote, and what its pipelines drew with them.

#include <string>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/pipelines/stable_diffusion_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_xl_pipeline.h>
#include <diffusers/text/clip_text_model.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers::test {
namespace {

StableDiffusionPipeline lora_pipeline() {
  auto pipeline = StableDiffusionPipeline::from_pretrained(golden_path("tiny_stable_diffusion"));
  pipeline.set_progress_bar_config({.disable = true});
  return pipeline;
}

template <class Pipeline>
Tensor lora_image(Pipeline& pipeline) {
  return pipeline({.prompt = "a red cat", .num_inference_steps = 3, .generator = make_generator(3)}).images;
}

void freeze(const torch::nn::Module& model) {
  for (auto& parameter : model.parameters()) parameter.requires_grad_(false);
}

template <class Pipeline>
void expect_images_of_python(Pipeline&& pipeline, const std::string& name) {
  const auto golden = load_golden("lora_images.safetensors");
  pipeline.set_progress_bar_config({.disable = true});
  // An adapter freezes the weights. LibTorch's matmul takes another way for weights that require a gradient.
  freeze(*pipeline.unet());
  freeze(*pipeline.text_encoder());
  if constexpr (requires { pipeline.text_encoder_2(); }) freeze(*pipeline.text_encoder_2());
  const auto plain = lora_image(pipeline);
  pipeline.load_lora_weights(golden_path("lora_files"),
                             {.adapter_name = "style", .weight_name = name + ".safetensors"});
  const auto adapted = lora_image(pipeline);
  EXPECT_FALSE(at::equal(adapted, plain)) << name;
  // The tolerance of the pipelines' other images.
  expect_close(adapted, golden[name], 1e-4, 1e-4, name);
  pipeline.set_adapters({"style"}, {0.5});
  const auto half = lora_image(pipeline);
  expect_close(half, golden[name + ".half"], 1e-4, 1e-4, name + " with half the weight");
  pipeline.fuse_lora();
  expect_close(lora_image(pipeline), half, 1e-4, 1e-4, name + " fused");
  pipeline.unfuse_lora();
  EXPECT_TRUE(at::equal(lora_image(pipeline), half)) << name;
  pipeline.unload_lora_weights();
  EXPECT_TRUE(at::equal(lora_image(pipeline), plain)) << name;
}

TEST(LoraLoader, ImagesMatchDiffusers) {
  for (const auto* name : {"sd", "script"}) expect_images_of_python(lora_pipeline(), name);
  expect_images_of_python(StableDiffusionXLPipeline::from_pretrained(golden_path("tiny_stable_diffusion_xl")),
                          "kohya_xl");
}

TEST(LoraLoader, SavesWhatItLoads) {
  const TemporaryFolder folder;
  auto pipeline = lora_pipeline();
  EXPECT_EQ(pipeline.load_lora_weights(golden_path("lora_files"), {.weight_name = "sd.safetensors"}),
            "default_0");
  const auto image = lora_image(pipeline);
  StableDiffusionPipeline::save_lora_weights(
      folder.path(), {.unet = pipeline.unet(), .text_encoder = pipeline.text_encoder()});
  auto other = lora_pipeline();
  other.load_lora_weights(folder.path());
  EXPECT_TRUE(at::equal(lora_image(other), image));
  // A file with the tensors of one model changes only this model.
  StableDiffusionPipeline::save_lora_weights(folder / "unet", {.unet = pipeline.unet()});
  auto third = lora_pipeline();
  third.load_lora_weights(folder / "unet");
  EXPECT_TRUE(third.text_encoder()->adapter_names().empty());
}

TEST(LoraLoader, SeveralAdaptersAreCombined) {
  auto pipeline = lora_pipeline();
  const auto plain = lora_image(pipeline);
  pipeline.load_lora_weights(golden_path("lora_files"),
                             {.adapter_name = "one", .weight_name = "sd.safetensors"});
  const auto one = lora_image(pipeline);
  pipeline.load_lora_weights(golden_path("lora_files"),
                             {.adapter_name = "two", .weight_name = "script.safetensors"});
  EXPECT_EQ(pipeline.get_active_adapters(), std::vector<std::string>{"two"});
  EXPECT_EQ(pipeline.get_list_adapters().at("text_encoder"), (std::vector<std::string>{"one", "two"}));
  pipeline.set_adapters({"one", "two"}, {1.0, 0.0});
  EXPECT_TRUE(at::equal(lora_image(pipeline), one));
  pipeline.disable_lora();
  EXPECT_TRUE(at::equal(lora_image(pipeline), plain));
  pipeline.enable_lora();
  pipeline.delete_adapters({"two"});
  EXPECT_TRUE(at::equal(lora_image(pipeline), one));
  pipeline.fuse_lora({.components = {"unet"}, .lora_scale = 0.5});
  EXPECT_FALSE(at::equal(lora_image(pipeline), one));
  pipeline.unfuse_lora();
  EXPECT_TRUE(at::equal(lora_image(pipeline), one));
}

TEST(LoraLoader, AdaptersOfOneModelCanBeActiveAlone) {
  auto pipeline = lora_pipeline();
  pipeline.unet()->add_adapter({.r = 1, .target_modules = {"to_k"}}, "unet_only");
  pipeline.text_encoder()->add_adapter({.r = 1, .target_modules = {"q_proj"}}, "text_only");
  pipeline.set_adapters({"unet_only"});
  EXPECT_EQ(pipeline.unet()->active_adapters(), std::vector<std::string>{"unet_only"});
  EXPECT_TRUE(pipeline.text_encoder()->active_adapters().empty());
}

TEST(LoraLoader, CallsAreChecked) {
  auto pipeline = lora_pipeline();
  expect_throws_with<ConfigError>([&] { pipeline.set_adapters({"style"}); }, "call load_lora_weights first");
  expect_throws_with<ConfigError>([&] { pipeline.fuse_lora(); }, "call load_lora_weights first");
  expect_throws_with<ConfigError>([&] { pipeline.unfuse_lora(); }, "no adapter is fused");
  expect_throws_with<ConfigError>([&] { pipeline.disable_lora(); }, "call load_lora_weights first");
  // The tensors of the second text encoder have no place.
  expect_throws_with<FileError>(
      [&] { pipeline.load_lora_weights(golden_path("lora_files"), {.weight_name = "kohya_xl.safetensors"}); },
      "lora_te2_text_model_encoder_layers_0_self_attn_out_proj");
  EXPECT_TRUE(pipeline.get_list_adapters().empty());
  pipeline.load_lora_weights(golden_path("lora_files"), {.weight_name = "sd.safetensors"});
  expect_throws_with<ConfigError>([&] { pipeline.set_adapters({"style"}); },
                                  "there is no adapter \"style\"; adapters: [\"default_0\"]");
  expect_throws_with<ConfigError>(
      [&] {
        pipeline.set_adapters({"default_0"}, {1.0, 2.0});
      },
      "1 names and 2 weights");
  expect_throws_with<ConfigError>([&] { pipeline.delete_adapters({"style"}); },
                                  "there is no adapter \"style\"");
  expect_throws_with<ConfigError>([&] { pipeline.fuse_lora({.components = {"vae"}}); },
                                  "no component \"vae\"");
  pipeline.fuse_lora();
  expect_throws_with<ConfigError>([&] { pipeline.fuse_lora(); }, "are fused, call unfuse_lora first");
}

}  // namespace
}  // namespace diffusers::test

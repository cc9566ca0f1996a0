// Stable Diffusion XL against what Python drew from the folder tests/golden/tiny_stable_diffusion_xl.

#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/io/files.h>
#include <diffusers/pipelines/stable_diffusion_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_xl_pipeline.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "pipelines/drawn.h"
#include "pipelines/xl_folder.h"

namespace diffusers {
namespace {

using XL = StableDiffusionXLPipelineOptions;
using test::all_sizes;
using test::five_steps;
using test::four_texts;
using test::xl_pipeline;

StableDiffusionXLPipeline tiny_xl(const std::string& scheduler = {}) {
  return xl_pipeline<StableDiffusionXLPipeline>(scheduler);
}

TEST(StableDiffusionXLPipeline, ImagesMatchDiffusers) {
  struct Case {
    const char* name;
    const char* scheduler;
    XL options;
  };
  const test::Golden& golden = test::pipelines_golden();
  XL sizes = all_sizes(XL{});
  sizes.negative_crops_coords_top_left = {1, 2};
  const Case cases[] = {
      {"euler", "", {}},
      {"texts", "", four_texts(XL{})},
      {"unguided", "", {.guidance_scale = 1.0}},
      {"empty_negative", "", {.negative_prompt = ""}},
      {"sizes", "", sizes},
      {"sizes_two", "",
       all_sizes(XL{.prompt = {"a red cat", "a blue, blue dog!"}, .num_images_per_prompt = 2})},
      {"rescale", "", {.guidance_rescale = 0.7}},
      {"clip_skip", "", four_texts(XL{.clip_skip = 1})},
      {"embeds",
       "",
       {.prompt_embeds = golden["xl_prompt_embeds"],
        .pooled_prompt_embeds = golden["xl_pooled_prompt_embeds"]}},
      {"size", "", {.height = 24, .width = 16}},
      {"ddim_eta", "DDIMScheduler", {.eta = 0.5}},
      {"latents", "", {.latents = golden["inpaint_latents"]}},
      {"end", "", {.denoising_end = 0.6, .output_type = "latent"}},
  };
  for (const auto& [name, scheduler, options] : cases) {
    auto pipeline = tiny_xl(scheduler);
    test::expect_as_python(std::string("xl_") + name, pipeline(five_steps(options)).images);
  }
}

TEST(StableDiffusionXLPipeline, EncodesEmptyTextsWithoutForceZeros) {
  auto pipeline = tiny_xl();
  EXPECT_TRUE(pipeline.force_zeros_for_empty_prompt());
  pipeline.set_force_zeros_for_empty_prompt(false);
  test::expect_as_python("xl_no_zeros", pipeline(five_steps(XL{.negative_prompt_2 = "dog"})).images);
  const test::TemporaryFolder folder;
  pipeline.save_pretrained(folder.path());
  EXPECT_FALSE(StableDiffusionXLPipeline::from_pretrained(folder.path()).force_zeros_for_empty_prompt());
  StableDiffusionXLPipeline made(pipeline.vae(), pipeline.text_encoder(), pipeline.text_encoder_2(),
                                 pipeline.tokenizer(), pipeline.tokenizer_2(), pipeline.unet(),
                                 pipeline.scheduler(), /*force_zeros_for_empty_prompt=*/false);
  test::expect_as_python("xl_no_zeros", made(five_steps(XL{.negative_prompt_2 = "dog"})).images);
}

TEST(StableDiffusionXLPipeline, DecodesWithTheStatisticsOfTheLatents) {
  auto pipeline = test::with_statistics<StableDiffusionXLPipeline>();
  test::expect_as_python("xl_statistics", pipeline(five_steps(XL{})).images);
}

TEST(StableDiffusionXLPipeline, OneNegativePromptServesAllPrompts) {
  auto pipeline = tiny_xl();
  const Tensor one =
      pipeline(five_steps(XL{.prompt = {"a red cat", "dog"}, .negative_prompt = "a blue dog"})).images;
  const Tensor two = pipeline(five_steps(XL{.prompt = {"a red cat", "dog"},
                                            .negative_prompt = {"a blue dog", "a blue dog"}}))
                         .images;
  test::expect_equal(one, two, "negative prompts");
}

TEST(StableDiffusionXLPipeline, DecodesInFloat32IfTheConfigAsksForIt) {
  auto pipeline = tiny_xl();
  const Tensor latents = pipeline(five_steps(XL{.output_type = "latent"})).images;
  const Tensor expected = pipeline(five_steps(XL{})).images;
  pipeline.vae()->to(at::kHalf);
  ASSERT_TRUE(pipeline.vae()->config().force_upcast);
  const Tensor images = pipeline(five_steps(XL{})).images;
  EXPECT_EQ(images.scalar_type(), at::kFloat);
  EXPECT_EQ(pipeline.vae()->parameters().front().scalar_type(), at::kHalf);  // the caller's stays
  test::expect_close(images, expected, 1e-2, 1e-2, "rounded weights");
}

TEST(StableDiffusionXLPipeline, DrawsInBfloat16) {
  auto pipeline = test::with_statistics<StableDiffusionXLPipeline>();
  pipeline.to(at::kBFloat16);
  EXPECT_TRUE(pipeline(five_steps(XL{})).images.isfinite().all().item<bool>());
}

TEST(StableDiffusionXLPipeline, SavesWhatPythonSaves) {
  test::expect_python_index(tiny_xl(), "xl");
  const test::TemporaryFolder folder;
  tiny_xl().save_pretrained(folder.path());
  auto again = DiffusionPipeline::from_pretrained(folder.path());
  test::expect_as_python("xl_texts",
                         again->as<StableDiffusionXLPipeline>()(five_steps(four_texts(XL{}))).images);
}

TEST(StableDiffusionXLPipeline, SlicesAndTilesTheAutoencoder) {
  auto pipeline = tiny_xl();
  pipeline.enable_vae_slicing();
  pipeline.enable_vae_tiling();
  EXPECT_TRUE(pipeline.vae()->use_slicing);
  EXPECT_TRUE(pipeline.vae()->use_tiling);
  pipeline.disable_vae_slicing();
  pipeline.disable_vae_tiling();
  EXPECT_FALSE(pipeline.vae()->use_slicing);
  EXPECT_FALSE(pipeline.vae()->use_tiling);
}

TEST(StableDiffusionXLPipeline, RefusesWhatCannotWork) {
  auto pipeline = tiny_xl();
  const Tensor embeds = at::zeros({1, 7, 16});
  const Tensor pooled = at::zeros({1, 8});
  int64_t steps = 0;
  const auto refuses = [&](XL options, const char* message) {
    if (options.num_inference_steps == 50) options.num_inference_steps = 2;
    options.callback_on_step_end = [&](int64_t, const Tensor&, Tensor&) { ++steps; };
    test::expect_throws_with<Error>([&] { pipeline(options); }, message);
  };
  refuses({}, "neither prompt nor prompt_embeds");
  refuses({.prompt = "a", .prompt_embeds = embeds, .pooled_prompt_embeds = pooled}, "both given");
  refuses({.prompt_2 = "a", .prompt_embeds = embeds, .pooled_prompt_embeds = pooled},
          "prompt_2 and prompt_embeds are both given");
  refuses({.prompt_embeds = embeds}, "pooled_prompt_embeds of the same text is missing");
  refuses({.prompt = "a", .negative_prompt_embeds = embeds},
          "negative_pooled_prompt_embeds of the same text is missing");
  refuses({.prompt = "a", .negative_prompt = "b", .negative_prompt_embeds = embeds}, "both given");
  refuses({.prompt = "a", .negative_prompt_2 = "b", .negative_prompt_embeds = embeds}, "both given");
  refuses({.prompt = {"a", "b"}, .prompt_2 = "c"}, "prompt_2 has 1 texts, expected 2");
  refuses({.prompt = {"a", "b", "c"}, .negative_prompt = {"d", "e"}},
          "negative_prompt has 2 texts, expected one for all or 3");
  refuses({.prompt = "a", .negative_prompt_2 = "b"}, "give negative_prompt as well");
  refuses({.prompt = "a", .negative_prompt_embeds = embeds, .negative_pooled_prompt_embeds = pooled},
          "expected the shape of the prompt's embeddings");
  refuses({.prompt_embeds = embeds, .pooled_prompt_embeds = at::zeros({2, 8})},
          "pooled_prompt_embeds is float32 [2, 8] on cpu, expected a floating [1, channels]");
  refuses({.prompt_embeds = at::zeros({7, 16}), .pooled_prompt_embeds = pooled}, "prompt_embeds is");
  refuses({.prompt_embeds = embeds, .pooled_prompt_embeds = at::zeros({1, 9})},
          "6 time ids and 9 channels of the pooled embeddings make 33 inputs, the UNet's "
          "projection_class_embeddings_input_dim is 32");
  refuses({.prompt = "a", .height = 12, .width = 16}, "expected positive multiples of 8");
  refuses({.prompt = "a", .num_inference_steps = 0}, "num_inference_steps is 0");
  refuses({.prompt = "a", .denoising_end = 0.0}, "denoising_end is 0, expected a number between 0 and 1");
  refuses({.prompt = "a", .denoising_end = 1.5}, "denoising_end is 1.5");
  refuses({.prompt = "a", .denoising_end = 0.001}, "leaves none of 2 timesteps");
  refuses({.prompt = "a", .num_images_per_prompt = 0}, "num_images_per_prompt is 0");
  refuses({.prompt = "a", .latents = at::zeros({1, 4, 4, 4})}, "expected [1, 4, 8, 8]");
  refuses({.prompt = "a", .original_size = {16}}, "original_size has 1 elements, expected two");
  refuses({.prompt = "a", .crops_coords_top_left = {}}, "crops_coords_top_left has 0 elements");
  refuses({.prompt = "a", .negative_original_size = {1, 2}}, "go together");
  refuses({.prompt = "a", .negative_target_size = {1, 2}}, "go together");
  refuses({.prompt = "a", .negative_crops_coords_top_left = {1, 2}}, "would have no effect");
  refuses({.prompt = "a", .clip_skip = 3}, "clip_skip is 3, expected 0 to 2");
  EXPECT_EQ(steps, 0);
}

TEST(StableDiffusionXLPipeline, NamesTheComponentThatIsMissing) {
  auto loaded = tiny_xl();
  PipelineComponents components = loaded.components();
  components.erase("vae");
  test::expect_throws_with<ConfigError>([&] { StableDiffusionXLPipeline{components}; },
                                        "component \"vae\" is missing");
  components = loaded.components();
  components.erase("tokenizer");
  StableDiffusionXLPipeline half(components);
  test::expect_throws_with<ConfigError>([&] { half(five_steps(XL{})); },
                                        "text_encoder and tokenizer go together");
  components = loaded.components();
  for (const char* name : {"text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"})
    components.erase(name);
  StableDiffusionXLPipeline none(components);
  test::expect_throws_with<ConfigError>([&] { none(five_steps(XL{})); }, "text_encoder_2 is absent");
  const XL embeds{.prompt_embeds = test::pipelines_golden()["xl_prompt_embeds"],
                  .pooled_prompt_embeds = test::pipelines_golden()["xl_pooled_prompt_embeds"]};
  test::expect_as_python("xl_embeds", none(five_steps(embeds)).images);

  auto stable = StableDiffusionPipeline::from_pretrained(test::golden_path("tiny_stable_diffusion"));
  components = loaded.components();
  components.insert_or_assign("unet", stable.unet());
  StableDiffusionXLPipeline plain(components);
  test::expect_throws_with<ConfigError>([&] { plain(five_steps(XL{})); },
                                        "addition_embed_type is \"none\", expected \"text_time\"");
}

}  // namespace
}  // namespace diffusers

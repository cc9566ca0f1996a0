// The T2I-adapter pipeline against what Python drew (tests/reference/adapter_pipeline.py), with one adapter
// and with two.

#include <cmath>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/models/t2i_adapter.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/pipelines/stable_diffusion_adapter_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_pipeline.h>
#include <diffusers/text/clip_text_model.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "pipelines/drawn.h"

namespace diffusers {
namespace {

using AdapterCall = StableDiffusionAdapterPipelineOptions;

const test::Golden& adapter_golden() {
  static const test::Golden golden = test::load_golden("adapter_pipeline.safetensors");
  return golden;
}

T2IAdapter seeded_adapter(uint64_t seed) {
  manual_seed(seed);
  T2IAdapter adapter(
      {.channels = {8, 16}, .num_res_blocks = 1, .downscale_factor = 4, .adapter_type = "full_adapter_xl"});
  const at::NoGradGuard no_grad;
  for (Tensor& parameter : adapter->parameters()) parameter *= 1.5;
  adapter->eval();
  return adapter;
}

/// One adapter, or two.
struct AdapterPipelines {
  StableDiffusionPipeline stable =
      StableDiffusionPipeline::from_pretrained(test::golden_path("tiny_stable_diffusion"));
  T2IAdapter first = seeded_adapter(21);
  T2IAdapter second = seeded_adapter(22);
  StableDiffusionAdapterPipeline one{stable.vae(), stable.text_encoder(), stable.tokenizer(), stable.unet(),
                                     first,        stable.scheduler()};
  StableDiffusionAdapterPipeline two = StableDiffusionAdapterPipeline::from_pipe(
      stable, {{"adapter", PipelineComponent(MultiAdapter({first, second}))}});
};

void expect_drawn(StableDiffusionAdapterPipeline& pipeline, const std::string& name,
                  const AdapterCall& options) {
  test::expect_close(pipeline(test::five_steps(options)).images, adapter_golden()[name],
                     test::kImageTolerance, test::kImageTolerance, name);
}

TEST(StableDiffusionAdapterPipeline, ImagesMatchDiffusers) {
  struct Case {
    const char* name;
    const char* scheduler;
    AdapterCall options;
  };
  const Tensor& image = adapter_golden()["image"];
  const Tensor& images = adapter_golden()["images"];
  const Case cases[] = {
      {"pndm", "", {.image = image, .negative_prompt = "a blue dog"}},
      {"ddim", "DDIMScheduler", {.image = image[0], .height = 16, .width = 16}},
      {"unguided", "DDIMScheduler", {.image = image, .guidance_scale = 1.0}},
      {"scale", "DDIMScheduler", {.image = image, .adapter_conditioning_scale = 0.5}},
      {"none", "DDIMScheduler", {.image = image, .adapter_conditioning_scale = 0.0}},
      {"per_prompt", "DDIMScheduler", {.image = image, .num_images_per_prompt = 2}},
      {"two_prompts", "DDIMScheduler", {.prompt = {"a red cat", "a blue, blue dog!"}, .image = images}},
      {"wide", "DDIMScheduler", {.image = adapter_golden()["wide_image"], .eta = 0.5}},
      {"latent", "EulerDiscreteScheduler", {.image = image, .output_type = "latent"}},
  };
  AdapterPipelines pipelines;
  for (const Case& c : cases) {
    StableDiffusionAdapterPipeline pipeline(pipelines.one.components());
    test::take_scheduler(pipeline, c.scheduler);
    expect_drawn(pipeline, c.name, c.options);
  }
  test::take_scheduler(pipelines.two, "DDIMScheduler");
  expect_drawn(pipelines.two, "two_adapters",
               {.image = {image, images.slice(0, 0, 1)}, .adapter_conditioning_scale = {0.7, 1.3}});
}

TEST(StableDiffusionAdapterPipeline, GivesEachPromptItsImage) {
  AdapterPipelines pipelines;
  const Tensor images = adapter_golden()["images"];
  const Tensor noise = at::randn({1, 4, 8, 8}, make_generator(3));
  const auto draw = [&](const Texts& prompt, const Tensor& image, int64_t count) {
    return pipelines
        .one(test::five_steps(AdapterCall{.prompt = prompt,
                                          .image = image,
                                          .num_images_per_prompt = count,
                                          .latents = noise.repeat({count * image.size(0), 1, 1, 1})}))
        .images;
  };
  // Python repeats the features in another order than the prompts, see docs/numerics.md.
  const Tensor all = draw({"a red cat", "a blue, blue dog!"}, images, 2);
  const Tensor first = draw("a red cat", images.narrow(0, 0, 1), 1);
  const Tensor second = draw("a blue, blue dog!", images.narrow(0, 1, 1), 1);
  test::expect_close(all, at::cat({first, first, second, second}), 1e-4, 1e-4);
}

TEST(StableDiffusionAdapterPipeline, SavesWhatPythonSaves) {
  AdapterPipelines pipelines;
  test::take_scheduler(pipelines.one, "EulerDiscreteScheduler");
  test::take_scheduler(pipelines.two, "DDIMScheduler");
  const std::string path = test::golden_path("adapter_pipeline.json");
  const Json expected = parse_json(read_text_file(path), path);
  const test::TemporaryFolder folder;
  pipelines.one.save_pretrained(folder / "one");
  pipelines.two.save_pretrained(folder / "two");
  EXPECT_EQ(parse_json(read_text_file(folder / "one/model_index.json"), "one"), expected.at("adapter"));
  EXPECT_EQ(parse_json(read_text_file(folder / "two/model_index.json"), "two"), expected.at("adapters"));
  EXPECT_TRUE(folder_exists(folder / "two/adapter"));
  EXPECT_TRUE(folder_exists(folder / "two/adapter_1"));

  auto one = StableDiffusionAdapterPipeline::from_pretrained(folder / "one");
  expect_drawn(one, "latent", {.image = adapter_golden()["image"], .output_type = "latent"});
  auto loaded = DiffusionPipeline::from_pretrained(folder / "two");
  auto& two = loaded->as<StableDiffusionAdapterPipeline>();
  EXPECT_EQ(two.adapters().size(), 2U);
  expect_drawn(two, "two_adapters",
               {.image = {adapter_golden()["image"], adapter_golden()["images"].slice(0, 0, 1)},
                .adapter_conditioning_scale = {0.7, 1.3}});
}

TEST(StableDiffusionAdapterPipeline, RefusesWhatCannotWork) {
  AdapterPipelines pipelines;
  const Tensor image = at::zeros({1, 3, 16, 16});
  int64_t steps = 0;
  const auto refuses_of = [&](StableDiffusionAdapterPipeline& pipeline, AdapterCall options,
                              const char* message) {
    if (options.prompt.values().empty()) options.prompt = "a red cat";
    options.num_inference_steps = 2;
    options.callback_on_step_end = [&](int64_t, const Tensor&, Tensor&) { ++steps; };
    test::expect_throws_with<Error>([&] { pipeline(options); }, message);
  };
  const auto refuses = [&](const AdapterCall& options, const char* message) {
    refuses_of(pipelines.one, options, message);
  };
  refuses({}, "image has 0 tensors, expected 1, one for each adapter");
  refuses_of(pipelines.two, {.image = image}, "image has 1 tensors, expected 2, one for each adapter");
  refuses_of(pipelines.two, {.image = {image, at::zeros({1, 3, 16, 8})}},
             "image[1] is 16 x 8 (height x width), expected the size of image[0], 16 x 16");
  refuses_of(pipelines.two, {.image = {image, Tensor()}}, "image[1] is an undefined tensor");
  refuses_of(pipelines.two, {.image = {image, image}, .adapter_conditioning_scale = {1.0, 1.0, 1.0}},
             "adapter_conditioning_scale has 3 values, expected one for all or one for each of 2 adapters");
  refuses({.image = at::zeros({1, 3, 16, 16}, at::kByte)}, "image is uint8");
  refuses({.image = at::zeros({1, 1, 16, 16})}, "expected 3 channels, as the adapter takes");
  refuses({.image = at::zeros({3, 3, 16, 16})}, "image has 3 images, expected one, or one for each of 1");
  refuses({.image = at::zeros({1, 3, 18, 16})}, "the height 18, expected a multiple of 4");
  refuses({.image = at::zeros({1, 3, 16, 0})}, "the width 0, expected a multiple of 4");
  refuses({.image = image, .height = 24}, "height is 24, expected 16, the height of the conditioning images");
  refuses({.image = image, .width = 8}, "width is 8, expected 16");
  refuses({.image = image, .adapter_conditioning_scale = std::nan("")}, "expected a finite number");
  refuses({.image = image, .latents = at::zeros({1, 4, 4, 4})}, "expected [1, 4, 8, 8]");
  EXPECT_EQ(steps, 0);

  test::expect_throws_with<ConfigError>([&] { StableDiffusionAdapterPipeline::from_pipe(pipelines.stable); },
                                        "\"adapter\" is missing");
}

}  // namespace
}  // namespace diffusers

// Compares the Stable Diffusion pipelines with the images that Python generated from the folder
// tests/golden/tiny_stable_diffusion.

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/logging.h>
#include <diffusers/core/random.h>
#include <diffusers/io/files.h>
#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/autoencoder_tiny.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/pipelines/stable_diffusion_img2img_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_pipeline.h>
#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/schedulers/euler_discrete_scheduler.h>
#include <diffusers/schedulers/heun_discrete_scheduler.h>
#include <diffusers/schedulers/lcm_scheduler.h>
#include <diffusers/schedulers/tcd_scheduler.h>
#include <diffusers/text/clip_text_model.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/json.h"
#include "support/golden.h"

namespace diffusers {
namespace {

// Models agree to 1e-4, and a few steps do not increase the error.
constexpr double kDrawnTolerance = 1e-4;

std::string stable_folder() { return test::golden_path("tiny_stable_diffusion"); }

const test::Golden& drawn_golden() {
  static const test::Golden instance = test::load_golden("stable_diffusion.safetensors");
  return instance;
}

/// Returns the folder's pipeline with its scheduler converted to another class.
template <class Pipeline>
Pipeline with_scheduler(const std::string& class_name, const std::string& prediction_type = "epsilon") {
  Pipeline loaded = Pipeline::from_pretrained(stable_folder());
  if (class_name.empty()) return loaded;
  Json config = parse_json(loaded.scheduler().config_json(), "config");
  config["_class_name"] = class_name;
  config["prediction_type"] = prediction_type;
  return Pipeline(loaded.vae(), loaded.text_encoder(), loaded.tokenizer(), loaded.unet(),
                  *Scheduler::from_config(config.dump()));
}

template <class Options>
Options common(Options options) {
  if (options.prompt.values().empty() && !options.prompt_embeds.defined()) options.prompt = "a red cat";
  options.num_inference_steps = 5;
  options.generator = make_generator(7);
  return options;
}

void expect_drawn(const char* name, const Tensor& images) {
  test::expect_close(images, drawn_golden()[name], kDrawnTolerance, kDrawnTolerance, name);
}

using TextOptions = StableDiffusionPipelineOptions;
using ImageOptions = StableDiffusionImg2ImgPipelineOptions;

TEST(StableDiffusionPipeline, ImagesMatchDiffusers) {
  struct Case {
    const char* name;
    const char* scheduler;
    TextOptions options;
    const char* prediction_type = "epsilon";
  };
  const Tensor latents = drawn_golden()["latents"];
  const Tensor embeds = drawn_golden()["prompt_embeds"];
  const Case cases[] = {
      {"pndm", "", {.negative_prompt = "a blue dog"}},
      {"pndm_unguided", "", {.guidance_scale = 1.0}},
      {"pndm_latent", "", {.output_type = OutputType::kLatent}},
      {"pndm_clip_skip", "", {.clip_skip = 1}},
      {"ddim", "DDIMScheduler", {.negative_prompt = "a blue dog"}},
      {"ddim_latent", "DDIMScheduler", {.negative_prompt = "a blue dog", .output_type = OutputType::kLatent}},
      {"ddim_unguided", "DDIMScheduler", {.guidance_scale = 1.0}},
      {"ddim_eta", "DDIMScheduler", {.eta = 0.7}},
      {"ddim_v", "DDIMScheduler", {}, "v_prediction"},
      {"ddim_rescale", "DDIMScheduler", {.guidance_rescale = 0.7}},
      {"ddim_size", "DDIMScheduler", {.height = 24, .width = 16}},
      {"ddim_two_prompts",
       "DDIMScheduler",
       {.prompt = {"a red cat", "a blue, blue dog!"},
        .negative_prompt = {"dog", ""},
        .num_images_per_prompt = 2}},
      {"ddim_latents", "DDIMScheduler", {.latents = latents}},
      {"ddim_embeds", "DDIMScheduler", {.prompt_embeds = embeds}},
      {"euler", "EulerDiscreteScheduler", {.negative_prompt = "a blue dog"}},
      {"euler_timesteps", "EulerDiscreteScheduler", {.timesteps = {801, 601, 401, 101}}},
      {"euler_sigmas", "EulerDiscreteScheduler", {.sigmas = {10.0, 4.0, 1.0, 0.2}}},
      {"tcd_eta", "TCDScheduler", {.eta = 0.4}},
  };
  for (const auto& [name, scheduler, options, prediction_type] : cases) {
    auto pipeline = with_scheduler<StableDiffusionPipeline>(scheduler, prediction_type);
    expect_drawn(name, pipeline(common(options)).images);
  }
}

TEST(StableDiffusionPipeline, SetSchedulerDrawsAsAPipelineMadeWithIt) {
  StableDiffusionPipeline pipeline = StableDiffusionPipeline::from_pretrained(stable_folder());
  expect_drawn("pndm", pipeline(common(TextOptions{.negative_prompt = "a blue dog"})).images);
  const std::string config = pipeline.scheduler().config_json();
  pipeline.set_scheduler(EulerDiscreteScheduler::from_config(config));
  EXPECT_EQ(pipeline.scheduler().class_name(), "EulerDiscreteScheduler");
  expect_drawn("euler", pipeline(common(TextOptions{.negative_prompt = "a blue dog"})).images);
  pipeline.set_scheduler(DDIMScheduler::from_config(config));
  expect_drawn("ddim", pipeline(common(TextOptions{.negative_prompt = "a blue dog"})).images);

  const test::TemporaryFolder folder;
  pipeline.save_pretrained(folder.path());
  EXPECT_NE(read_text_file(folder / "model_index.json").find("\"DDIMScheduler\""), std::string::npos);
  EXPECT_EQ(StableDiffusionPipeline::from_pretrained(folder.path()).scheduler().class_name(),
            "DDIMScheduler");
}

TEST(StableDiffusionPipeline, SetSchedulerCorrectsTheConfigAsTheConstructorDoes) {
  StableDiffusionPipeline pipeline = StableDiffusionPipeline::from_pretrained(stable_folder());
  pipeline.set_scheduler(DDIMScheduler());
  const auto* ddim = dynamic_cast<const DDIMScheduler*>(&pipeline.scheduler());
  ASSERT_NE(ddim, nullptr);
  EXPECT_EQ(ddim->config().steps_offset, 1);
  EXPECT_FALSE(ddim->config().clip_sample);
  // A config that needs no correction is not changed.
  const std::string config = pipeline.scheduler().config_json();
  pipeline.set_scheduler(pipeline.scheduler());
  EXPECT_EQ(pipeline.scheduler().config_json(), config);
}

TEST(StableDiffusionImg2ImgPipeline, SetSchedulerDrawsAsAPipelineMadeWithIt) {
  auto pipeline = StableDiffusionImg2ImgPipeline::from_pretrained(stable_folder());
  pipeline.set_scheduler(EulerDiscreteScheduler::from_config(pipeline.scheduler().config_json()));
  expect_drawn("img2img_euler",
               pipeline(common(ImageOptions{.image = drawn_golden()["image"], .strength = 0.5})).images);
}

TEST(StableDiffusionPipeline, GivesTheGuidanceScaleToAUNetThatTakesIt) {
  auto loaded = with_scheduler<StableDiffusionPipeline>("LCMScheduler");
  auto config = loaded.unet()->config();
  config.time_cond_proj_dim = 9;
  manual_seed(5);
  UNet2DConditionModel unet(config);
  StableDiffusionPipeline pipeline(loaded.vae(), loaded.text_encoder(), loaded.tokenizer(), unet,
                                   loaded.scheduler());
  expect_drawn("lcm_guidance_input", pipeline(common(TextOptions{})).images);
}

TEST(StableDiffusionImg2ImgPipeline, ImagesMatchDiffusers) {
  struct Case {
    const char* name;
    const char* scheduler;
    ImageOptions options;
  };
  const Tensor image = drawn_golden()["image"];
  const Case cases[] = {
      {"img2img_pndm", "", {.image = image, .strength = 0.6, .negative_prompt = "a blue dog"}},
      {"img2img_ddim", "DDIMScheduler", {.image = image, .negative_prompt = "a blue dog"}},
      {"img2img_ddim_full", "DDIMScheduler", {.image = image, .strength = 1.0, .eta = 0.5}},
      {"img2img_euler", "EulerDiscreteScheduler", {.image = image, .strength = 0.5}},
      {"img2img_heun", "HeunDiscreteScheduler", {.image = image, .strength = 0.5, .guidance_scale = 1.0}},
      {"img2img_two_prompts",
       "DDIMScheduler",
       {.prompt = {"a red cat", "a blue, blue dog!"}, .image = image, .num_images_per_prompt = 2}},
      {"img2img_odd", "DDIMScheduler", {.image = drawn_golden()["odd_image"]}},
      {"img2img_signed", "DDIMScheduler", {.image = 2 * image - 1}},
      {"img2img_from_latents", "DDIMScheduler", {.image = drawn_golden()["latents"]}},
  };
  for (const auto& [name, scheduler, options] : cases) {
    auto pipeline = with_scheduler<StableDiffusionImg2ImgPipeline>(scheduler);
    expect_drawn(name, pipeline(common(options)).images);
  }
}

TEST(StableDiffusionPipeline, SavesWhatItLoads) {
  auto pipeline = StableDiffusionPipeline::from_pretrained(stable_folder());
  const test::TemporaryFolder folder;
  pipeline.save_pretrained(folder / "saved");
  EXPECT_EQ(read_text_file(folder / "saved/model_index.json"),
            read_text_file(stable_folder() + "/model_index.json"));
  auto again = StableDiffusionPipeline::from_pretrained(folder / "saved");
  expect_drawn("pndm", again(common(TextOptions{.negative_prompt = "a blue dog"})).images);
}

TEST(StableDiffusionPipeline, SharesModelsAndCorrectsTheScheduler) {
  auto loaded = StableDiffusionPipeline::from_pretrained(stable_folder());
  StableDiffusionImg2ImgPipeline other(loaded.vae(), loaded.text_encoder(), loaded.tokenizer(), loaded.unet(),
                                       DDIMScheduler());
  EXPECT_EQ(other.unet().ptr(), loaded.unet().ptr());
  const Json config = parse_json(other.scheduler().config_json(), "config");
  EXPECT_EQ(config["steps_offset"], 1);
  EXPECT_EQ(config["clip_sample"], false);
}

TEST(StableDiffusionPipeline, LeavesTheModelsInTheirModesAndShowsTheLatents) {
  auto pipeline = StableDiffusionPipeline::from_pretrained(stable_folder());
  pipeline.unet()->train();
  std::vector<int64_t> steps;
  auto options = common(TextOptions{});
  options.callback_on_step_end = [&](int64_t step, const Tensor&, const Tensor& latents) {
    steps.push_back(step);
    EXPECT_FALSE(pipeline.unet()->is_training());
    EXPECT_EQ(latents.sizes(), (std::vector<int64_t>{1, 4, 8, 8}));
  };
  pipeline(options);
  EXPECT_TRUE(pipeline.unet()->is_training());
  // PNDM takes its second step twice.
  EXPECT_EQ(steps, (std::vector<int64_t>{0, 1, 2, 3, 4, 5}));
}

TEST(StableDiffusionPipeline, WarnsOfWhatTheTextEncoderCannotTake) {
  auto pipeline = StableDiffusionPipeline::from_pretrained(stable_folder());
  std::string text = "cat";
  for (int i = 0; i < 80; ++i) text += " cat";
  std::string messages;
  const LogSink before = set_log_sink([&](LogLevel, std::string_view message) { messages += message; });
  auto options = common(TextOptions{});
  options.prompt = text;
  options.num_inference_steps = 1;
  pipeline(options);
  set_log_sink(before);
  EXPECT_NE(messages.find("cut off: cat cat cat cat cat cat"), std::string::npos) << messages;
}

TEST(StableDiffusionPipeline, GivesTheAttentionMaskToATextEncoderThatUsesIt) {
  auto pipeline = StableDiffusionPipeline::from_pretrained(stable_folder());
  Json config = parse_json(pipeline.text_encoder()->config_json(), "config");
  config["use_attention_mask"] = true;
  CLIPTextModel masked = CLIPTextModel::from_config(config.dump());
  {
    const at::NoGradGuard no_grad;
    const auto from = pipeline.text_encoder()->parameters();
    const auto to = masked->parameters();
    for (std::size_t i = 0; i < to.size(); ++i) to[i].copy_(from[i]);
  }
  const Tensor plain = pipeline(common(TextOptions{})).images;
  pipeline.text_encoder() = masked;
  EXPECT_FALSE(pipeline(common(TextOptions{})).images.equal(plain));
}

TEST(StableDiffusionPipeline, RefusesWhatCannotWork) {
  auto pipeline = StableDiffusionPipeline::from_pretrained(stable_folder());
  const Tensor embeds = at::zeros({1, 7, 16});
  const auto refuses = [&](TextOptions options, const char* message) {
    options.num_inference_steps = options.num_inference_steps == 50 ? 2 : options.num_inference_steps;
    test::expect_throws_with<Error>([&] { pipeline(options); }, message);
  };
  refuses({}, "neither prompt nor prompt_embeds");
  refuses({.prompt = "a", .prompt_embeds = embeds}, "both given");
  refuses({.prompt = "a", .height = 12, .width = 16}, "expected positive multiples of 8");
  refuses({.prompt = "a", .height = -8, .width = 16}, "expected positive multiples of 8");
  refuses({.prompt = "a", .num_inference_steps = 0}, "num_inference_steps is 0");
  refuses({.prompt = "a", .timesteps = {5}, .sigmas = {1}}, "timesteps and sigmas");
  refuses({.prompt = {"a", "b"}, .negative_prompt = "c"}, "negative_prompt has 1 texts, expected 2");
  refuses({.prompt = "a", .negative_prompt = "c", .negative_prompt_embeds = embeds}, "both given");
  refuses({.prompt = "a", .negative_prompt_embeds = embeds}, "expected the shape");
  refuses({.prompt = "a", .num_images_per_prompt = 0}, "num_images_per_prompt is 0");
  refuses({.prompt = "a", .latents = at::zeros({2, 4, 8, 8})}, "expected [1, 4, 8, 8]");
  refuses({.prompt_embeds = at::zeros({7, 16})}, "prompt_embeds is");
  refuses({.prompt = "a", .clip_skip = 4}, "clip_skip is 4");
  test::expect_throws_with<ConfigError>(
      [&] {
        StableDiffusionPipeline(nullptr, pipeline.text_encoder(), pipeline.tokenizer(), pipeline.unet(),
                                pipeline.scheduler());
      },
      "the vae is empty");
}

TEST(StableDiffusionImg2ImgPipeline, RefusesWhatCannotWork) {
  auto pipeline = StableDiffusionImg2ImgPipeline::from_pretrained(stable_folder());
  const Tensor image = at::zeros({1, 3, 16, 16});
  const auto refuses = [&](ImageOptions options, const char* message) {
    options.num_inference_steps = 2;
    test::expect_throws_with<Error>([&] { pipeline(options); }, message);
  };
  refuses({.prompt = "a", .image = image, .strength = 1.1}, "strength is 1.1");
  refuses({.prompt = "a", .image = image, .strength = -0.1}, "strength is -0.1");
  refuses({.prompt = "a", .image = image, .strength = 0.4}, "leaves none of 2 steps");
  refuses({.prompt = "a"}, "image is an undefined tensor");
  refuses({.prompt = "a", .image = at::zeros({1, 3, 1, 16})}, "the vae's scale");
  refuses({.prompt = "a", .image = at::zeros({3, 3, 16, 16})}, "image has 3 images");
  refuses({.prompt = "a", .image = at::zeros({1, 3, 16, 16}, at::kByte)},
          "image is uint8 [1, 3, 16, 16] on cpu, expected a floating [B, C, H, W] or [C, H, W] in [0, 1]; "
          "convert "
          "bytes");
  refuses({.prompt = "a", .image = at::zeros({1, 3, 16, 16}, at::kLong)}, "image is int64");
  refuses({.prompt = "a", .image = at::linspace(0, 255, 3 * 256).view({1, 3, 16, 16})},
          "image has values from 0 to 255, expected [0, 1]; divide pixels in [0, 255] by 255");
  refuses({.prompt = "a", .image = at::full({1, 3, 16, 16}, std::nan(""))}, "nan, expected [0, 1]");
}

TEST(StableDiffusionPipeline, NamesTheComponentThatDoesNotFit) {
  const test::TemporaryFolder folder;
  StableDiffusionPipeline::from_pretrained(stable_folder()).save_pretrained(folder.path());
  const std::string path = folder / "model_index.json";
  const Json index = parse_json(read_text_file(path), path);
  const auto load_with = [&](const char* name, Json entry) {
    Json changed = index;
    changed[name] = std::move(entry);
    write_file(dump_json(changed), path);
    return StableDiffusionPipeline::from_pretrained(folder.path());
  };
  test::expect_throws_with<FileError>(
      [&] {
        load_with("vae", Json::array({"diffusers", "VQModel"}));
      },
      "component \"vae\" is a VQModel");
  remove_folder(folder / "vae");
  AutoencoderTiny()->save_pretrained(folder / "vae");
  test::expect_throws_with<FileError>(
      [&] {
        load_with("vae", Json::array({"diffusers", "AutoencoderTiny"}));
      },
      "component \"vae\" is a AutoencoderTiny, StableDiffusionPipeline takes a AutoencoderKL");
  test::expect_throws_with<ConfigError>(
      [&] {
        load_with("vae", Json::array({"diffusers", "AutoencoderKL"}));
      },
      "this is the config of a AutoencoderTiny, expected that of a AutoencoderKL");
  remove_folder(folder / "vae");
  StableDiffusionPipeline::from_pretrained(stable_folder()).save_pretrained(folder.path());
  test::expect_throws_with<FileError>(
      [&] {
        load_with("text_encoder", Json::array({nullptr, nullptr}));
      },
      "component \"text_encoder\" is absent");
  test::expect_throws_with<FileError>(
      [&] {
        load_with("movq", Json::array({"diffusers", "VQModel"}));
      },
      "component \"movq\" (VQModel) is none of");
  std::string messages;
  const LogSink before = set_log_sink([&](LogLevel, std::string_view message) { messages += message; });
  load_with("safety_checker", Json::array({"stable_diffusion", "StableDiffusionSafetyChecker"}));
  set_log_sink(before);
  EXPECT_NE(messages.find("the safety checker is not run"), std::string::npos) << messages;
}

}  // namespace
}  // namespace diffusers

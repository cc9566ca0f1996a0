// A step of a pipeline's loop neither reads from its device nor copies anything to it: all data is copied
// before the loop. On a GPU, each read makes the host wait for the device, and each copy makes the device
// wait for the host.

#include <array>
#include <functional>
#include <string>
#include <vector>

#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/controlnet.h>
#include <diffusers/models/t2i_adapter.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/models/vq_model.h>
#include <diffusers/pipelines/ddim_pipeline.h>
#include <diffusers/pipelines/ddpm_pipeline.h>
#include <diffusers/pipelines/latent_diffusion_pipeline.h>
#include <diffusers/pipelines/ldm_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_adapter_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_controlnet_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_img2img_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_inpaint_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_xl_img2img_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_xl_pipeline.h>
#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/schedulers/scheduler.h>
#include <diffusers/text/clip_text_model.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/json.h"
#include "support/counting_device.h"
#include "support/golden.h"
#include "training/tiny_autoencoder.h"
#include "training/tiny_latent_unet.h"

namespace diffusers::test {
namespace {

// The first steps of PNDM and Heun differ from the later steps.
constexpr int64_t kRepetitions = 6;

template <class Pipeline>
Pipeline on_device(const std::string& folder) {
  Pipeline pipeline = Pipeline::from_pretrained(golden_path(folder));
  move_to_counting_device(*pipeline.unet());
  if constexpr (requires { pipeline.vae(); }) {
    move_to_counting_device(*pipeline.vae());
    move_to_counting_device(*pipeline.text_encoder());
  }
  if constexpr (requires { pipeline.text_encoder_2(); }) move_to_counting_device(*pipeline.text_encoder_2());
  pipeline.set_progress_bar_config({.disable = true});
  return pipeline;
}

void expect_none(const std::function<void(int64_t)>& run, const std::string& label) {
  SCOPED_TRACE(label);
  EXPECT_EQ(traffic_of_one(run, kRepetitions), DeviceTraffic{});
}

TEST(Traffic, IsSeen) {
  const at::TensorOptions options = at::TensorOptions().device(counting_device());
  const at::Tensor x = at::rand({4, 4}, options);
  const auto traffic_of = [](const std::function<void()>& work) {
    const TrafficCounter counter;
    work();
    return counter.traffic();
  };
  EXPECT_EQ(traffic_of([&] { (x * 2 + x.t()).sum(1).softmax(0).to(at::kDouble); }), DeviceTraffic{});
  EXPECT_EQ(traffic_of([&] { at::full({2}, 3.0, options).add_(at::scalar_tensor(1.0)); }), DeviceTraffic{});
  EXPECT_EQ(traffic_of([&] { x.sum().item<float>(); }), (DeviceTraffic{{"aten::_local_scalar_dense", 1}}));
  EXPECT_EQ(traffic_of([&] { at::is_nonzero(x.sum()); }), (DeviceTraffic{{"aten::_local_scalar_dense", 1}}));
  EXPECT_EQ(traffic_of([&] { at::equal(x, x); }), (DeviceTraffic{{"aten::equal", 1}}));
  EXPECT_EQ(traffic_of([&] { at::nonzero(x); }), (DeviceTraffic{{"aten::nonzero", 1}}));
  EXPECT_EQ(traffic_of([&] { at::tensor({1.0, 2.0}, options); }), (DeviceTraffic{{"copy to the device", 1}}));
  EXPECT_EQ(traffic_of([&] { at::zeros({2}).to(counting_device()); }),
            (DeviceTraffic{{"copy to the device", 1}}));
  EXPECT_EQ(traffic_of([&] { x.cpu(); }), (DeviceTraffic{{"copy to the host", 1}}));
  EXPECT_ANY_THROW(at::mm(x, at::zeros({4, 4})));
}

TEST(Traffic, AStepOfDDPMPipelineHasNone) {
  auto pipeline = on_device<DDPMPipeline>("tiny_ddpm_pipeline");
  expect_none([&](int64_t steps) { pipeline({.batch_size = 2, .num_inference_steps = steps}); }, "ddpm");
  // The caller may read the result.
  const Tensor images = pipeline({.batch_size = 2, .num_inference_steps = 3}).images;
  EXPECT_EQ(images.device(), counting_device());
  EXPECT_TRUE(images.isfinite().all().item<bool>());
}

TEST(Traffic, AStepOfDDIMPipelineHasNone) {
  auto pipeline = on_device<DDIMPipeline>("tiny_ddpm_pipeline");
  for (const double eta : {0.0, 0.5})
    for (const bool clipped : {false, true})
      expect_none(
          [&](int64_t steps) {
            pipeline({.batch_size = 2,
                      .eta = eta,
                      .num_inference_steps = steps,
                      .use_clipped_model_output = clipped});
          },
          "eta " + std::to_string(eta));
}

TEST(Traffic, AStepOfDDPMPipelineWithAnySchedulerHasNone) {
  auto loaded = on_device<DDPMPipeline>("tiny_ddpm_pipeline");
  for (const char* name : {"DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"}) {
    Json config = parse_json(loaded.scheduler().config_json(), "config");
    config["_class_name"] = name;
    DDPMPipeline pipeline(loaded.unet(), *Scheduler::from_config(config.dump()));
    pipeline.set_progress_bar_config({.disable = true});
    expect_none([&](int64_t steps) { pipeline({.batch_size = 1, .num_inference_steps = steps}); }, name);
  }
}

/// The schedulers that are compatible with Stable Diffusion.
constexpr std::array kLatentSchedulers{"",
                                       "DDIMScheduler",
                                       "DDPMScheduler",
                                       "LMSDiscreteScheduler",
                                       "EulerDiscreteScheduler",
                                       "EulerAncestralDiscreteScheduler",
                                       "HeunDiscreteScheduler",
                                       "KDPM2DiscreteScheduler",
                                       "KDPM2AncestralDiscreteScheduler",
                                       "DPMSolverMultistepScheduler",
                                       "DPMSolverSinglestepScheduler",
                                       "DEISMultistepScheduler",
                                       "UniPCMultistepScheduler",
                                       "LCMScheduler",
                                       "TCDScheduler"};

/// Returns the folder's pipeline with its scheduler converted to another class.
template <class Pipeline>
Pipeline latent_pipeline(Pipeline& loaded, const std::string& class_name) {
  Json config = parse_json(loaded.scheduler().config_json(), "config");
  if (!class_name.empty()) config["_class_name"] = class_name;
  Pipeline pipeline(loaded.vae(), loaded.text_encoder(), loaded.tokenizer(), loaded.unet(),
                    *Scheduler::from_config(config.dump()));
  pipeline.set_progress_bar_config({.disable = true});
  return pipeline;
}

TEST(Traffic, AStepOfLDMPipelineHasNone) {
  auto pipeline = on_device<LDMPipeline>("tiny_ldm_pipeline");
  move_to_counting_device(*pipeline.component<VQModel>("vqvae"));
  for (const double eta : {0.0, 0.5})
    expect_none([&](int64_t steps) { pipeline({.batch_size = 2, .eta = eta, .num_inference_steps = steps}); },
                "ldm, eta " + std::to_string(eta));
}

TEST(Traffic, AStepOfLatentDiffusionPipelineHasNone) {
  AutoencoderKL vae = tiny_vae();
  UNet2DModel classes = tiny_latent_unet(2, 5);
  UNet2DModel inpainting = tiny_latent_unet(5);
  move_to_counting_device(*vae);
  move_to_counting_device(*classes);
  move_to_counting_device(*inpainting);
  const auto pipeline_of = [&](const UNet2DModel& unet) {
    LatentDiffusionPipeline pipeline({{"vae", vae}, {"unet", unet}, {"scheduler", DDIMScheduler()}});
    pipeline.set_progress_bar_config({.disable = true});
    return pipeline;
  };
  auto by_class = pipeline_of(classes);
  const Tensor labels = at::tensor({1, 3}, at::kLong);
  for (const double scale : {1.0, 3.0})
    expect_none(
        [&](int64_t steps) {
          by_class({.class_labels = labels, .num_inference_steps = steps, .guidance_scale = scale});
        },
        "classes, scale " + std::to_string(scale));
  auto inpaint = pipeline_of(inpainting);
  const Tensor image = at::rand({1, 3, 8, 8});
  const Tensor mask = at::ones({1, 1, 8, 8});
  expect_none(
      [&](int64_t steps) { inpaint({.image = image, .mask_image = mask, .num_inference_steps = steps}); },
      "inpainting");
}

TEST(Traffic, AStepOfStableDiffusionPipelineHasNone) {
  auto loaded = on_device<StableDiffusionPipeline>("tiny_stable_diffusion");
  for (const char* name : kLatentSchedulers) {
    auto pipeline = latent_pipeline(loaded, name);
    expect_none(
        [&](int64_t steps) {
          pipeline({.prompt = "a red cat", .num_inference_steps = steps, .output_type = OutputType::kLatent});
        },
        std::string("scheduler ") + name);
  }
  auto pipeline = latent_pipeline(loaded, "DDIMScheduler");
  expect_none(
      [&](int64_t steps) {
        pipeline({.prompt = "a red cat",
                  .num_inference_steps = steps,
                  .guidance_scale = 5,
                  .eta = 0.5,
                  .output_type = OutputType::kLatent,
                  .guidance_rescale = 0.7});
      },
      "eta and rescaled guidance");
  expect_none(
      [&](int64_t steps) {
        pipeline({.prompt = "a red cat",
                  .num_inference_steps = steps,
                  .guidance_scale = 1,
                  .output_type = OutputType::kLatent});
      },
      "no guidance");
}

TEST(Traffic, AStepOfStableDiffusionImg2ImgPipelineHasNone) {
  auto loaded = on_device<StableDiffusionImg2ImgPipeline>("tiny_stable_diffusion");
  const Tensor image = at::rand({1, 3, 32, 32}).to(counting_device());
  for (const char* name : {"", "DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"}) {
    auto pipeline = latent_pipeline(loaded, name);
    expect_none(
        [&](int64_t steps) {
          pipeline({.prompt = "a red cat",
                    .image = image,
                    .strength = 1,
                    .num_inference_steps = steps,
                    .output_type = OutputType::kLatent});
        },
        std::string("scheduler ") + name);
  }
}

/// Gives a pipeline its scheduler's config as a scheduler of another class.
void change_scheduler(DiffusionPipeline& pipeline, const std::string& class_name) {
  Json config = parse_json(pipeline.scheduler().config_json(), "config");
  config["_class_name"] = class_name;
  pipeline.set_scheduler(*Scheduler::from_config(config.dump()));
}

TEST(Traffic, AStepOfStableDiffusionInpaintPipelineHasNone) {
  auto four = on_device<StableDiffusionInpaintPipeline>("tiny_stable_diffusion");
  UNet2DConditionModelConfig config = four.unet()->config();
  config.in_channels = 9;
  UNet2DConditionModel unet(config);
  move_to_counting_device(*unet);
  auto nine = StableDiffusionInpaintPipeline::from_pipe(four, {{"unet", unet}});
  nine.set_progress_bar_config({.disable = true});
  const Tensor image = at::rand({1, 3, 16, 16}).to(counting_device());
  const Tensor mask = at::rand({1, 1, 16, 16}).to(counting_device());
  for (const char* name :
       {"PNDMScheduler", "DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"})
    for (auto* pipeline : {&four, &nine}) {
      change_scheduler(*pipeline, name);
      expect_none(
          [&](int64_t steps) {
            (*pipeline)({.prompt = "a red cat",
                         .image = image,
                         .mask_image = mask,
                         .num_inference_steps = steps,
                         .output_type = OutputType::kLatent});
          },
          std::string("scheduler ") + name);
    }
}

TEST(Traffic, AStepOfStableDiffusionControlNetPipelineHasNone) {
  auto stable = on_device<StableDiffusionPipeline>("tiny_stable_diffusion");
  const auto loaded = StableDiffusionPipeline::from_pretrained(golden_path("tiny_stable_diffusion"));
  std::vector<ControlNetModel> nets;
  for (int i = 0; i < 2; ++i) {
    nets.push_back(ControlNetModel::from_unet(loaded.components().at("unet").get<UNet2DConditionModel>(),
                                              {.conditioning_embedding_out_channels = {8, 8}}));
    move_to_counting_device(*nets.back());
  }
  StableDiffusionControlNetPipeline pipeline(stable.vae(), stable.text_encoder(), stable.tokenizer(),
                                             stable.unet(), nets, stable.scheduler());
  pipeline.set_progress_bar_config({.disable = true});
  const Tensor image = at::rand({1, 3, 16, 16}).to(counting_device());
  for (const bool guess_mode : {false, true})
    expect_none(
        [&](int64_t steps) {
          pipeline({.prompt = "a red cat",
                    .image = {image, image},
                    .num_inference_steps = steps,
                    .output_type = OutputType::kLatent,
                    .guess_mode = guess_mode,
                    .control_guidance_end = {1.0, 0.5}});
        },
        guess_mode ? "guess mode" : "two nets");
}

TEST(Traffic, AStepOfStableDiffusionAdapterPipelineHasNone) {
  auto stable = on_device<StableDiffusionPipeline>("tiny_stable_diffusion");
  T2IAdapter adapter(
      {.channels = {8, 16}, .num_res_blocks = 1, .downscale_factor = 4, .adapter_type = "full_adapter_xl"});
  move_to_counting_device(*adapter);
  StableDiffusionAdapterPipeline pipeline(stable.vae(), stable.text_encoder(), stable.tokenizer(),
                                          stable.unet(), adapter, stable.scheduler());
  pipeline.set_progress_bar_config({.disable = true});
  const Tensor image = at::rand({1, 3, 16, 16}).to(counting_device());
  expect_none(
      [&](int64_t steps) {
        pipeline({.prompt = "a red cat",
                  .image = image,
                  .num_inference_steps = steps,
                  .output_type = OutputType::kLatent});
      },
      "one adapter");
}

TEST(Traffic, AStepOfStableDiffusionXLPipelineHasNone) {
  auto pipeline = on_device<StableDiffusionXLPipeline>("tiny_stable_diffusion_xl");
  for (const char* name : {"EulerDiscreteScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler"}) {
    change_scheduler(pipeline, name);
    expect_none(
        [&](int64_t steps) {
          pipeline({.prompt = "a red cat",
                    .num_inference_steps = steps,
                    .output_type = OutputType::kLatent,
                    .guidance_rescale = 0.5});
        },
        std::string("scheduler ") + name);
  }
}

TEST(Traffic, AStepOfStableDiffusionXLImg2ImgPipelineHasNone) {
  auto pipeline = on_device<StableDiffusionXLImg2ImgPipeline>("tiny_stable_diffusion_xl");
  const Tensor image = at::rand({1, 3, 16, 16}).to(counting_device());
  expect_none(
      [&](int64_t steps) {
        pipeline({.prompt = "a red cat",
                  .image = image,
                  .strength = 1,
                  .num_inference_steps = steps,
                  .output_type = OutputType::kLatent});
      },
      "img2img");
}

}  // namespace
}  // namespace diffusers::test

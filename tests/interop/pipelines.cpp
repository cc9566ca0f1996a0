// The C++ side of the exchange of the inpainting, ControlNet and Stable Diffusion XL pipelines.
//     interop_pipelines save DIR     saves them and what they draw
//     interop_pipelines check DIR    opens what pipelines.py saved, and compares what it draws
#include <filesystem>
#include <string>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/io/safetensors.h>
#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/controlnet.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/pipelines/stable_diffusion_controlnet_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_inpaint_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_xl_img2img_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_xl_pipeline.h>
#include <diffusers/schedulers/euler_discrete_scheduler.h>
#include <diffusers/text/clip_text_model.h>
#include <diffusers/text/clip_tokenizer.h>

#include <torch/types.h>

#include "exchange.h"
#include "tiny_tokenizer.h"

using namespace diffusers;

namespace {

UNet2DConditionModelConfig tiny_unet_config() {
  return {.sample_size = 8,
          .down_block_types = {"DownBlock2D", "CrossAttnDownBlock2D"},
          .up_block_types = {"CrossAttnUpBlock2D", "UpBlock2D"},
          .block_out_channels = {8, 16},
          .layers_per_block = 1,
          .norm_num_groups = 4,
          .cross_attention_dim = 16,
          .attention_head_dim = 2};
}

UNet2DConditionModel tiny_inpaint_unet() {
  auto config = tiny_unet_config();
  config.in_channels = 9;
  return UNet2DConditionModel(config);
}

UNet2DConditionModel tiny_xl_unet() {
  auto config = tiny_unet_config();
  config.cross_attention_dim = 32;
  config.addition_embed_type = AdditionEmbedType::kTextTime;
  config.addition_time_embed_dim = 4;
  config.projection_class_embeddings_input_dim = 4 * 6 + 8;
  return UNet2DConditionModel(config);
}

CLIPTextConfig tiny_text_config(const CLIPTokenizer& tokenizer) {
  return {.vocab_size = tokenizer.size(),
          .hidden_size = 16,
          .intermediate_size = 32,
          .projection_dim = 8,
          .num_hidden_layers = 2,
          .num_attention_heads = 2,
          .bos_token_id = tokenizer.bos_token_id(),
          .eos_token_id = tokenizer.eos_token_id()};
}

ControlNetModel tiny_controlnet(const UNet2DConditionModel& unet) {
  auto net = ControlNetModel::from_unet(unet, {.conditioning_embedding_out_channels = {8, 8}});
  // They start as zeros, which would hide what differs.
  const torch::NoGradGuard no_grad;
  for (Tensor& parameter : net->parameters())
    if (!parameter.any().item<bool>()) parameter.normal_(0.0, 0.1);
  return net;
}

struct Pipelines {
  StableDiffusionInpaintPipeline inpaint;
  StableDiffusionControlNetPipeline controlnet;
  StableDiffusionXLPipeline xl;
  StableDiffusionXLImg2ImgPipeline xl_image;
};

Pipelines tiny_pipelines() {
  const CLIPTokenizer tokenizer = test::tiny_tokenizer();
  const AutoencoderKL vae({.down_block_types = {"DownEncoderBlock2D", "DownEncoderBlock2D"},
                           .up_block_types = {"UpDecoderBlock2D", "UpDecoderBlock2D"},
                           .block_out_channels = {8, 8},
                           .norm_num_groups = 4});
  const CLIPTextModel text(tiny_text_config(tokenizer));
  const CLIPTextModelWithProjection text_2(tiny_text_config(tokenizer));
  const UNet2DConditionModel unet(tiny_unet_config());
  const UNet2DConditionModel xl_unet = tiny_xl_unet();
  const EulerDiscreteScheduler euler({.beta_start = 0.00085,
                                      .beta_end = 0.012,
                                      .beta_schedule = BetaSchedule::kScaledLinear,
                                      .timestep_spacing = TimestepSpacing::kLeading,
                                      .steps_offset = 1});
  return {{vae, text, tokenizer, tiny_inpaint_unet(), euler},
          {vae, text, tokenizer, unet, {tiny_controlnet(unet), tiny_controlnet(unet)}, euler},
          {vae, text, text_2, tokenizer, tokenizer, xl_unet, euler},
          {vae, text, text_2, tokenizer, tokenizer, xl_unet, euler, /*requires_aesthetics_score=*/false}};
}

/// What the pipelines draw from the images in `tensors`.
TensorMap drawn(Pipelines& pipelines, const TensorMap& tensors) {
  const Tensor& image = tensors.at("image");
  TensorMap results = {{"inpaint", pipelines
                                       .inpaint({.prompt = "a cat",
                                                 .image = image,
                                                 .mask_image = tensors.at("mask"),
                                                 .strength = 0.7,
                                                 .num_inference_steps = 3,
                                                 .generator = make_generator(3)})
                                       .images},
                       {"controlnet", pipelines
                                          .controlnet({.prompt = "a cat",
                                                       .image = {image, tensors.at("other")},
                                                       .num_inference_steps = 3,
                                                       .generator = make_generator(3),
                                                       .controlnet_conditioning_scale = {0.5, 0.8}})
                                          .images},
                       {"xl", pipelines
                                  .xl({.prompt = "a cat",
                                       .prompt_2 = "dog",
                                       .num_inference_steps = 3,
                                       .negative_prompt = "a dog",
                                       .generator = make_generator(3)})
                                  .images},
                       {"xl_image", pipelines
                                        .xl_image({.prompt = "a cat",
                                                   .image = image,
                                                   .strength = 0.7,
                                                   .num_inference_steps = 3,
                                                   .generator = make_generator(3)})
                                        .images}};
  return results;
}

void save(const std::filesystem::path& folder) {
  manual_seed(0);
  Pipelines pipelines = tiny_pipelines();
  pipelines.inpaint.save_pretrained(folder / "inpaint");
  pipelines.controlnet.save_pretrained(folder / "controlnet");
  pipelines.xl.save_pretrained(folder / "xl");
  pipelines.xl_image.save_pretrained(folder / "xl_image");
  TensorMap tensors = {{"image", torch::rand({1, 3, 16, 16})},
                       {"other", torch::rand({1, 3, 16, 16})},
                       {"mask", torch::rand({1, 1, 16, 16})}};
  const TensorMap results = drawn(pipelines, tensors);
  for (const auto& [name, tensor] : results) tensors.insert(name, tensor.contiguous());
  save_safetensors(tensors, (folder / "images.safetensors").string(), {{"format", "pt"}});
}

bool check(const std::filesystem::path& folder) {
  Pipelines pipelines{StableDiffusionInpaintPipeline::from_pretrained(folder / "inpaint"),
                      StableDiffusionControlNetPipeline::from_pretrained(folder / "controlnet"),
                      StableDiffusionXLPipeline::from_pretrained(folder / "xl"),
                      StableDiffusionXLImg2ImgPipeline::from_pretrained(folder / "xl_image")};
  const TensorMap tensors = load_safetensors((folder / "images.safetensors").string());
  bool same = true;
  const TensorMap results = drawn(pipelines, tensors);
  for (const auto& [name, found] : results)
    same = test::close(std::string(name), found, tensors.at(name), 1e-4) && same;
  return same;
}

}  // namespace

int main(int argc, char** argv) { return test::save_or_check(argc, argv, "interop_pipelines", save, check); }

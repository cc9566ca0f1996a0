// The C++ side of the exchange of a Stable Diffusion pipeline, a ControlNet, a VQModel and an
// AutoencoderTiny.
//     interop_models save DIR     saves them and their outputs for some inputs
//     interop_models check DIR    opens what models.py saved, and compares
#include <filesystem>
#include <string>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/io/safetensors.h>
#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/autoencoder_tiny.h>
#include <diffusers/models/controlnet.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/models/vq_model.h>
#include <diffusers/pipelines/stable_diffusion_pipeline.h>
#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/text/clip_text_model.h>
#include <diffusers/text/clip_tokenizer.h>

#include <torch/types.h>

#include "exchange.h"
#include "tiny_tokenizer.h"

using namespace diffusers;

namespace {

StableDiffusionPipeline tiny_pipeline() {
  const CLIPTokenizer tokenizer = test::tiny_tokenizer();
  const UNet2DConditionModel unet({.sample_size = 8,
                                   .down_block_types = {"DownBlock2D", "CrossAttnDownBlock2D"},
                                   .up_block_types = {"CrossAttnUpBlock2D", "UpBlock2D"},
                                   .block_out_channels = {8, 16},
                                   .layers_per_block = 1,
                                   .norm_num_groups = 4,
                                   .cross_attention_dim = 16,
                                   .attention_head_dim = 2});
  const AutoencoderKL vae({.down_block_types = {"DownEncoderBlock2D", "DownEncoderBlock2D"},
                           .up_block_types = {"UpDecoderBlock2D", "UpDecoderBlock2D"},
                           .block_out_channels = {8, 8},
                           .norm_num_groups = 4});
  const CLIPTextModel text({.vocab_size = tokenizer.size(),
                            .hidden_size = 16,
                            .intermediate_size = 32,
                            .num_hidden_layers = 2,
                            .num_attention_heads = 2,
                            .bos_token_id = tokenizer.bos_token_id(),
                            .eos_token_id = tokenizer.eos_token_id()});
  return {vae, text, tokenizer, unet,
          DDIMScheduler({.beta_start = 0.00085,
                         .beta_end = 0.012,
                         .beta_schedule = BetaSchedule::kScaledLinear,
                         .clip_sample = false,
                         .set_alpha_to_one = false,
                         .steps_offset = 1})};
}

/// The models that are exchanged besides those of the pipeline.
struct OtherModels {
  ControlNetModel controlnet{nullptr};
  VQModel vq{nullptr};
  AutoencoderTiny tiny{nullptr};
};

/// Computes the outputs of the models for the inputs in `tensors`.
TensorMap outputs(StableDiffusionPipeline& pipeline, const OtherModels& models, const TensorMap& tensors) {
  const torch::NoGradGuard no_grad;
  const auto residuals = models.controlnet->forward(tensors.at("sample"), tensors.at("timesteps"),
                                                    tensors.at("states"), tensors.at("condition"));
  TensorMap result = {
      {"vq", models.vq->forward(tensors.at("image")).sample},
      {"tiny_latents", models.tiny->encode(tensors.at("image")).latents},
      {"tiny", models.tiny->decode(tensors.at("sample")).sample},
      {"mean", pipeline.vae()->encode(tensors.at("image")).latent_dist.mode()},
      {"mid", residuals.mid_block_res_sample},
      {"unet",
       pipeline.unet()->forward(tensors.at("sample"), tensors.at("timesteps"), tensors.at("states")).sample}};
  for (std::size_t i = 0; i < residuals.down_block_res_samples.size(); ++i)
    result.insert("down" + std::to_string(i), residuals.down_block_res_samples[i]);
  result.insert("drawn", pipeline({.prompt = "a cat",
                                   .num_inference_steps = 3,
                                   .negative_prompt = "dog",
                                   .generator = make_generator(3)})
                             .images);
  return result;
}

void save(const std::filesystem::path& folder) {
  manual_seed(0);
  StableDiffusionPipeline pipeline = tiny_pipeline();
  ControlNetModel controlnet =
      ControlNetModel::from_unet(pipeline.unet(), {.conditioning_embedding_out_channels = {8, 8}});
  {
    // These weights are initialised to zeros, which would hide differences.
    const torch::NoGradGuard no_grad;
    for (Tensor& parameter : controlnet->parameters())
      if (!parameter.any().item<bool>()) parameter.normal_();
  }
  VQModel vq({.block_out_channels = {8}, .num_vq_embeddings = 16, .norm_num_groups = 4});
  AutoencoderTiny tiny({.encoder_block_out_channels = {6, 6},
                        .decoder_block_out_channels = {6, 6},
                        .upsample_fn = "bilinear",
                        .num_encoder_blocks = {1, 2},
                        .num_decoder_blocks = {2, 1}});
  pipeline.save_pretrained(folder / "pipeline");
  controlnet->save_pretrained(folder / "controlnet");
  vq->save_pretrained(folder / "vq");
  tiny->save_pretrained(folder / "tiny");
  controlnet->eval();
  vq->eval();
  tiny->eval();
  pipeline.unet()->eval();
  pipeline.vae()->eval();
  TensorMap tensors = {{"sample", torch::randn({2, 4, 8, 8})},
                       {"timesteps", torch::tensor({7, 700}, torch::kLong)},
                       {"states", torch::randn({2, 5, 16})},
                       {"condition", torch::rand({2, 3, 16, 16})},
                       {"image", torch::rand({1, 3, 16, 16})}};
  const TensorMap results = outputs(pipeline, {controlnet, vq, tiny}, tensors);
  for (const auto& [name, tensor] : results) tensors.insert(name, tensor.contiguous());
  save_safetensors(tensors, (folder / "models.safetensors").string(), {{"format", "pt"}});
}

bool check(const std::filesystem::path& folder) {
  StableDiffusionPipeline pipeline = StableDiffusionPipeline::from_pretrained(folder / "pipeline");
  const OtherModels models{ControlNetModel::from_pretrained(folder / "controlnet"),
                           VQModel::from_pretrained(folder / "vq"),
                           AutoencoderTiny::from_pretrained(folder / "tiny")};
  const TensorMap tensors = load_safetensors((folder / "models.safetensors").string());
  bool same = true;
  const TensorMap results = outputs(pipeline, models, tensors);
  for (const auto& [name, found] : results)
    same = test::close(std::string(name), found, tensors.at(name), 1e-4) && same;
  return same;
}

}  // namespace

int main(int argc, char** argv) { return test::save_or_check(argc, argv, "interop_models", save, check); }

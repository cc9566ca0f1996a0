#pragma once

// The tiny Stable Diffusion XL folder, and what its tests share.

#include <string>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/pipelines/stable_diffusion_xl_base.h>
#include <diffusers/text/clip_text_model.h>

#include "pipelines/drawn.h"

namespace diffusers::test {

template <class Pipeline>
Pipeline xl_pipeline(const std::string& scheduler = {}) {
  Pipeline pipeline = Pipeline::from_pretrained(golden_path("tiny_stable_diffusion_xl"));
  take_scheduler(pipeline, scheduler);
  return pipeline;
}

/// The pipeline's UNet without the first text encoder and with five time ids.
inline UNet2DConditionModel refiner_unet(StableDiffusionXLBase& pipeline) {
  UNet2DConditionModelConfig config = pipeline.unet()->config();
  config.cross_attention_dim = 8;
  config.projection_class_embeddings_input_dim = 28;
  manual_seed(10);
  return UNet2DConditionModel(config);
}

/// The pipeline with statistics of the latents in the config of its autoencoder.
template <class Pipeline>
Pipeline with_statistics() {
  auto loaded = xl_pipeline<Pipeline>();
  AutoencoderKLConfig config = loaded.vae()->config();
  config.latents_mean = {0.1, -0.2, 0.3, 0.4};
  config.latents_std = {1.5, 0.8, 1.2, 0.7};
  AutoencoderKL vae(config);
  {
    const at::NoGradGuard no_grad;
    const auto from = loaded.vae()->parameters();
    const auto to = vae->parameters();
    for (std::size_t i = 0; i < to.size(); ++i) to[i].copy_(from[i]);
  }
  return Pipeline::from_pipe(loaded, {{"vae", vae}});
}

/// Two texts, and other texts for the second encoder.
template <class Options>
Options four_texts(Options options) {
  options.prompt_2 = "a blue cat";
  options.negative_prompt = "a blue dog";
  options.negative_prompt_2 = "dog";
  return options;
}

/// Other sizes in each place.
template <class Options>
Options all_sizes(Options options) {
  options.original_size = {32, 48};
  options.crops_coords_top_left = {3, 5};
  options.target_size = {20, 24};
  options.negative_original_size = {10, 12};
  options.negative_target_size = {30, 40};
  return options;
}

}  // namespace diffusers::test

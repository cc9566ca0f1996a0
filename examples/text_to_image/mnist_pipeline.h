#pragma once

// The folder that mnist_text_to_image wrote: its models, and samples for prompts.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/core/tensor_map.h>
#include <diffusers/pipelines/stable_diffusion_pipeline.h>
#include <diffusers/training/text_to_image_models.h>

#include "mnist_flags.h"

/// Loads the models of a folder that mnist_text_to_image wrote, on `--device`.
/// @param folder value of `--pretrained_model_name_or_path`
/// @throws diffusers::FileError if the folder has no pipeline; diffusers::ConfigError if its autoencoder
///   takes other images than gray ones
diffusers::TextToImageModels load_digit_models(const std::string& folder, const DigitSettings& settings);

/// Loads the models and freezes all parameters. LibTorch's matrix products of frozen and of other parameters
/// round differently, so samples can be compared bit for bit only if both are drawn with frozen ones.
/// @throws as load_digit_models
diffusers::TextToImageModels load_frozen(const std::string& folder, const DigitSettings& settings);

/// Returns a pipeline that shares the models.
diffusers::StableDiffusionPipeline digit_pipeline(const diffusers::TextToImageModels& models);

/// Options of `draw_digits`.
struct DrawOptions {
  uint64_t seed = 0;                          ///< seed of the first noise
  std::function<bool()> stop_requested = {};  ///< see `stop_sampling_if`
};

/// Draws a sample for each prompt, with `--num_inference_steps` and `--guidance_scale`.
/// @return images `[N, 1, H, W]` float32 in [0, 1] on the CPU
/// @throws PreviewStopped if `stop_requested` returns true
diffusers::Tensor draw_digits(diffusers::StableDiffusionPipeline& pipeline,
                              const std::vector<std::string>& prompts, const DigitSettings& settings,
                              const DrawOptions& options = {});

/// Draws a sample for each prompt with a pipeline of these models, as the other overload does.
diffusers::Tensor draw_digits(const diffusers::TextToImageModels& models,
                              const std::vector<std::string>& prompts, const DigitSettings& settings,
                              const DrawOptions& options = {});

/// Returns true if both have the same names and, bit for bit, the same values.
bool are_equal(const diffusers::TensorMap& a, const diffusers::TensorMap& b);

#pragma once

// Pictures of validation prompts, which the programs draw during the training of a Stable Diffusion model.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/models/controlnet.h>
#include <diffusers/models/t2i_adapter.h>
#include <diffusers/training/text_to_image_models.h>
#include <diffusers/training/trainer.h>
#include <diffusers/training/training_config.h>

/// Inputs of the pictures. Prompts and images form pairs; one prompt goes with all images, and one image with
/// all prompts.
struct PreviewInputs {
  std::vector<std::string> prompts = {};
  std::vector<std::string> images = {};  ///< files: pictures to repaint, or conditioning images
  std::vector<std::string> masks = {};   ///< files: one for each picture to repaint
  int64_t num_images = 1;                ///< pictures of each pair
  /// Class of the scheduler that draws the pictures of a UNet. Empty: the scheduler of the models.
  std::string scheduler = {};
  /// Denoising steps of the pictures of a UNet. None: those of Python's text-to-image scripts.
  std::optional<int64_t> num_inference_steps = {};
};

/// Draws pictures with the models that are trained. The Trainer calls it with the EMA weights if there are
/// some. The random numbers come from a separate generator with the seed of the training, so the training
/// is the same as without pictures.
using Previews = std::function<void(const diffusers::PreviewContext&)>;

/// Checks the numbers of prompts and images.
/// @throws diffusers::ConfigError naming the flags `--validation_prompt` and `--validation_image`
void check_preview_pairs(const PreviewInputs& inputs);

/// Makes the previews of a UNet: of Stable Diffusion 1.x, 2.x or XL, or of an inpainting UNet, which repaints
/// the images where the masks are white. The pictures stand in one grid, `previews/validation-STEP.png`.
/// @param models are shared, not copied
/// @param inputs images and masks only for an inpainting UNet; they are resized to the resolution
/// @throws diffusers::FileError naming an image that cannot be read
Previews unet_previews(const diffusers::TextToImageModels& models, const PreviewInputs& inputs,
                       const diffusers::TrainingConfig& training);

/// Makes the previews of a ControlNet of Stable Diffusion 1.x or 2.x. Each pair has a grid,
/// `previews/validation_PAIR-STEP.png`: the conditioning image, then the pictures.
/// @param models are shared, not copied
/// @param controlnet is shared, not copied
/// @param inputs one conditioning image at least; a picture has the size of its conditioning image
/// @throws diffusers::FileError naming an image that cannot be read
Previews controlnet_previews(const diffusers::TextToImageModels& models,
                             const diffusers::ControlNetModel& controlnet, const PreviewInputs& inputs,
                             const diffusers::TrainingConfig& training);

/// Makes the previews of a T2I-adapter of Stable Diffusion 1.x or 2.x, with the grids of
/// `controlnet_previews`. The conditioning images are resized to the resolution of the training.
/// @param models are shared, not copied
/// @param adapter is shared, not copied
/// @param inputs one conditioning image at least
/// @throws diffusers::FileError naming an image that cannot be read
Previews adapter_previews(const diffusers::TextToImageModels& models, const diffusers::T2IAdapter& adapter,
                          const PreviewInputs& inputs, const diffusers::TrainingConfig& training);

/// Makes the previews of an instruct-pix2pix training, with the grids of `controlnet_previews`: the picture
/// that is edited, then the pictures. They have the guidance scales of diffusers' script, 7 and 1.5.
/// @param models are shared, not copied
/// @param inputs one picture at least
/// @throws diffusers::FileError naming a picture that cannot be read
Previews editing_previews(const diffusers::TextToImageModels& models, const PreviewInputs& inputs,
                          const diffusers::TrainingConfig& training);

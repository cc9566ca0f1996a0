#pragma once

// Trainings of a network that gives a frozen UNet of Stable Diffusion features of a conditioning image.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include <diffusers/data/batch.h>
#include <diffusers/models/conditioning.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/training/saved_module.h>
#include <diffusers/training/text_to_image_models.h>
#include <diffusers/training/trainable_denoiser.h>

namespace diffusers {
inline namespace internal {

/// Adds the features of a conditioning image `[B, C, H, W]` to the inputs of the UNet.
using AddFeatures = std::function<void(const Tensor& image, const Tensor& noisy, const Tensor& timesteps,
                                       Conditioning& conditioning)>;

/// The prediction of the UNet with these features. The conditioning image is passed as
/// `added_cond_kwargs.hint`, which no UNet of Stable Diffusion has, so that it is cut with the batch.
/// @param trained the network that makes the features
TrainableDenoiser with_features(const UNet2DConditionModel& unet, std::shared_ptr<SavedModule> trained,
                                AddFeatures add_features);

/// Refuses an inpainting UNet, whose conditioning has no conditioning image.
/// @param task name of the task, for the message
/// @throws ConfigError with the numbers of channels
void refuse_inpainting(const TextToImageModels& models, const char* task);

/// Checks the crop that the UNet of Stable Diffusion XL is told.
/// @throws ConfigError naming the option if it is negative, or given without Stable Diffusion XL
void check_crop(const TextToImageModels& models, int64_t crops_coords_top_left_h,
                int64_t crops_coords_top_left_w);

/// A batch with the crop for all samples and without original sizes, so that the time ids hold the size of
/// the images.
Batch with_crop(const Batch& batch, int64_t crops_coords_top_left_h, int64_t crops_coords_top_left_w);

/// Adds the crop to the config of a task, for Stable Diffusion XL.
/// @param config JSON of a StableDiffusionTask
std::string config_with_crop(const std::string& config, bool is_xl, int64_t crops_coords_top_left_h,
                             int64_t crops_coords_top_left_w);

/// Checks the conditioning images of a batch.
/// @param channels expected channels
/// @param field name of the config field with that number, and its model, for messages
/// @throws ConfigError if there are none; TensorError for another shape or dtype
void check_conditioning_images(const Batch& batch, int64_t channels, const char* field);

}  // namespace internal
}  // namespace diffusers

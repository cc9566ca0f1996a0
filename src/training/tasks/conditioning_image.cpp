#include "training/tasks/conditioning_image.h"

#include <utility>
#include <vector>

#include <diffusers/models/denoiser.h>

#include <ATen/ATen.h>

#include "core/json.h"
#include "core/require.h"

namespace diffusers {
inline namespace internal {

TrainableDenoiser with_features(const UNet2DConditionModel& unet, std::shared_ptr<SavedModule> trained,
                                AddFeatures add_features) {
  DenoiserInfo info = denoiser_info(unet);
  info.dropout = 0.0;  // the UNet is in eval mode, and the networks have none
  Denoiser predict = [denoise = make_denoiser(unet), add_features = std::move(add_features)](
                         const Tensor& noisy, const Tensor& timesteps, const Conditioning& given) {
    Conditioning conditioning = given;
    const Tensor image = std::exchange(conditioning.added_cond_kwargs.hint, {});
    add_features(image, noisy, timesteps, conditioning);
    return denoise(noisy, timesteps, conditioning);
  };
  TrainableDenoiser model(std::move(trained), std::move(predict), std::move(info));
  model.is_thread_safe = true;
  return model;
}

void refuse_inpainting(const TextToImageModels& models, const char* task) {
  require<ConfigError>(
      !models.is_inpainting(),
      "{}: the unet has {} input channels, which is an inpainting UNet; expected {}, the channels of the "
      "latents",
      task, models.unet->config().in_channels, models.vae->config().latent_channels);
}

void check_crop(const TextToImageModels& models, int64_t crops_coords_top_left_h,
                int64_t crops_coords_top_left_w) {
  for (const auto& [name, value] : {std::pair("crops_coords_top_left_h", crops_coords_top_left_h),
                                    std::pair("crops_coords_top_left_w", crops_coords_top_left_w)}) {
    require<ConfigError>(value >= 0, "{} is {}, expected 0 or more", name, value);
    require<ConfigError>(value == 0 || models.is_xl(),
                         "{} is {}, but only the UNet of Stable Diffusion XL is told a crop; expected 0",
                         name, value);
  }
}

Batch with_crop(const Batch& batch, int64_t crops_coords_top_left_h, int64_t crops_coords_top_left_w) {
  Batch told = batch;
  told.original_sizes = Tensor();
  told.crop_top_lefts = at::tensor({crops_coords_top_left_h, crops_coords_top_left_w}, at::kLong)
                            .view({1, 2})
                            .expand({batch.size(), 2});
  return told;
}

std::string config_with_crop(const std::string& config, bool is_xl, int64_t crops_coords_top_left_h,
                             int64_t crops_coords_top_left_w) {
  if (!is_xl) return config;
  Json json = parse_json(config, "the config of the StableDiffusionTask");
  json["crops_coords_top_left_h"] = crops_coords_top_left_h;
  json["crops_coords_top_left_w"] = crops_coords_top_left_w;
  return dump_json(json);
}

void check_conditioning_images(const Batch& batch, int64_t channels, const char* field) {
  const Tensor& conditioning = batch.conditioning_images;
  require<ConfigError>(conditioning.defined(),
                       "the dataset gives no conditioning images; ImageFolder reads them from the column "
                       "conditioning_image_column");
  const std::vector<int64_t> expected = {batch.images.size(0), channels, batch.images.size(2),
                                         batch.images.size(3)};
  require<TensorError>(
      conditioning.sizes() == expected && at::isFloatingType(conditioning.scalar_type()),
      "conditioning_images are {}, expected a floating tensor {}: the size of the images and the {}",
      describe(conditioning), shape_string(expected), field);
}

}  // namespace internal
}  // namespace diffusers

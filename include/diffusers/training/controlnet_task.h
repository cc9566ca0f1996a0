#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include <diffusers/models/controlnet.h>
#include <diffusers/training/stable_diffusion_task.h>

namespace diffusers {

/// Options of a ControlNetTask that are no fields of TrainingConfig.
struct ControlNetTaskOptions {
  /// Probability, 0 to 1, that a caption is replaced by an empty one.
  double proportion_empty_prompts = 0.0;
  /// Encodes each distinct caption once, see `TextToImageTaskOptions::cache_text_embeddings`.
  bool cache_text_embeddings = false;
  /// Stable Diffusion XL: top edge of the crop in the time ids of all images, in pixels, 0 or more.
  int64_t crops_coords_top_left_h = 0;
  /// Stable Diffusion XL: left edge of the crop in the time ids of all images, in pixels, 0 or more.
  int64_t crops_coords_top_left_w = 0;
  /// Weighting, timestep sampling and other options of the loss; `conditioning` must be empty.
  DiffusionTaskOptions diffusion = {};
};

/// Trains a ControlNet for a frozen UNet of Stable Diffusion 1.x, 2.x or XL, as diffusers'
/// `train_controlnet.py` and `train_controlnet_sdxl.py` do. The dataset gives images, captions and
/// `Batch::conditioning_images` of the same size.
///
/// The ControlNet is saved in `controlnet/` and, at the end, in `output_dir` itself, as Python's script does:
/// `ControlNetModel::from_pretrained(output_dir)` opens it. The captions, the VAE, the scheduler and the
/// random numbers are those of TextToImageTask.
///
/// For Stable Diffusion XL the time ids are those of Python's script, the same for all images: the size of
/// the images as the original size, `crops_coords_top_left_h` and `crops_coords_top_left_w` as the crop, and
/// the size of the images as the target size. `Batch::original_sizes` and `Batch::crop_top_lefts` have no
/// effect.
/// @code
/// auto task = std::make_shared<ControlNetTask>(TextToImageModels::from_pretrained("stable-diffusion-v1-5"));
/// Trainer(task, config).train(ImageFolder("pictures", {.resolution = 512,
///                                                      .conditioning_image_column = "conditioning_image"}));
/// @endcode
class ControlNetTask : public StableDiffusionTask {
 public:
  /// @param models are shared, not copied; all are frozen
  /// @param controlnet is shared, not copied; null: that of `make_controlnet`
  /// @param options see ControlNetTaskOptions
  /// @throws ConfigError as TextToImageTask, and naming a field of the ControlNet's config that does not fit
  ///   the UNet, with both values; also for a crop that is negative, or given without Stable Diffusion XL
  explicit ControlNetTask(const TextToImageModels& models, ControlNetModel controlnet = nullptr,
                          ControlNetTaskOptions options = {});

  /// Makes a ControlNet with the weights of the UNet. Its embedding of the conditioning image halves the
  /// image as often as the VAE does, with the channels of Python's default, 16, 32, 96, 256, for Stable
  /// Diffusion's. New weights are drawn with the global generator.
  /// @param models the components
  /// @return a ControlNet on the CPU, in float32
  /// @throws ConfigError naming a component that is missing, or a field of the UNet's config that a
  /// ControlNet
  ///   does not have
  static ControlNetModel make_controlnet(const TextToImageModels& models);

  /// @return the ControlNet that is trained
  const ControlNetModel& controlnet() const { return controlnet_; }
  /// @return the options as given
  const ControlNetTaskOptions& control_options() const { return control_options_; }

  /// Checks a batch as TextToImageTask does, and its conditioning images.
  /// @param batch as the dataset gave it
  /// @throws ConfigError for missing captions or conditioning images; TensorError for conditioning images of
  ///   another size than the images or with other channels than the ControlNet takes
  void check_batch(const Batch& batch) override;
  /// Writes the ControlNet into `output_dir`, and `scheduler/` and `noise_schedule.svg`.
  /// @param output_dir holds `controlnet/`
  void save_extras(const std::filesystem::path& output_dir) const override;
  std::string config_json() const override;

 protected:
  Conditioning conditioning(const Batch& batch) override;

 private:
  ControlNetModel controlnet_;
  ControlNetTaskOptions control_options_;
};

}  // namespace diffusers

#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include <diffusers/models/t2i_adapter.h>
#include <diffusers/training/stable_diffusion_task.h>

namespace diffusers {

/// Options of a T2IAdapterTask that are no fields of TrainingConfig.
struct T2IAdapterTaskOptions {
  /// Probability, 0 to 1, that a caption is replaced by an empty one.
  double proportion_empty_prompts = 0.0;
  /// Encodes each distinct caption once, see `TextToImageTaskOptions::cache_text_embeddings`.
  bool cache_text_embeddings = false;
  /// Stable Diffusion XL: top edge of the crop in the time ids of all images, in pixels, 0 or more.
  int64_t crops_coords_top_left_h = 0;
  /// Stable Diffusion XL: left edge of the crop in the time ids of all images, in pixels, 0 or more.
  int64_t crops_coords_top_left_w = 0;
  /// Weighting, timestep sampling and other options of the loss; `conditioning` must be empty. The timesteps
  /// are drawn with `cubic`, as in Python's script.
  DiffusionTaskOptions diffusion = {.timestep_sampling = TimestepSampling::kCubic};
};

/// Trains a T2I-adapter for a frozen UNet of Stable Diffusion 1.x, 2.x or XL, as diffusers'
/// `train_t2i_adapter_sdxl.py` does for XL (Mou et al. 2023, arXiv 2302.08453). The dataset gives images,
/// captions and `Batch::conditioning_images` of the same size.
///
/// As in the script, the noise schedule is that of an EulerDiscreteScheduler with the config of the folder's
/// scheduler. The weighted loss of the denoised latents equals the squared error of the predicted noise. For
/// `v_prediction` the target is the velocity.
///
/// The adapter is saved in `t2iadapter/` and, at the end, in `output_dir` itself, as Python's script does:
/// `T2IAdapter::from_pretrained(output_dir)` opens it. The captions, the VAE and the random numbers are those
/// of TextToImageTask.
///
/// For Stable Diffusion XL the time ids are those of Python's script, as in ControlNetTask.
/// @code
/// auto task = std::make_shared<T2IAdapterTask>(TextToImageModels::from_pretrained("stable-diffusion-xl"));
/// Trainer(task, config).train(ImageFolder("pictures", {.resolution = 1024,
///                                                      .conditioning_image_column = "conditioning_image"}));
/// @endcode
class T2IAdapterTask : public StableDiffusionTask {
 public:
  /// @param models are shared, not copied; all are frozen
  /// @param adapter is shared, not copied; null: that of `make_adapter`
  /// @param options see T2IAdapterTaskOptions
  /// @throws ConfigError as TextToImageTask; for an inpainting UNet; for a scheduler without betas; or naming
  ///   a feature of the adapter that does not fit the UNet, with both sizes
  explicit T2IAdapterTask(const TextToImageModels& models, T2IAdapter adapter = nullptr,
                          T2IAdapterTaskOptions options = {});

  /// Makes an adapter with new weights, drawn with the global generator. It has the channels of the UNet's
  /// down blocks and two residual blocks in each block. For Stable Diffusion XL its type is
  /// "full_adapter_xl" and its `downscale_factor` twice that of the VAE, 16, as in Python's script. For
  /// Stable Diffusion 1.x and 2.x its type is "full_adapter" and its `downscale_factor` that of the VAE, 8.
  /// For a UNet with other down blocks the other type is used if only that one fits.
  /// @param models the components
  /// @return an adapter on the CPU, in float32
  /// @throws ConfigError naming a component that is missing, or down blocks that no such adapter fits
  static T2IAdapter make_adapter(const TextToImageModels& models);

  /// @return the adapter that is trained
  const T2IAdapter& adapter() const { return adapter_; }
  /// @return the options as given
  const T2IAdapterTaskOptions& adapter_options() const { return adapter_options_; }

  /// Reads the options of the training. `gradient_checkpointing` applies to the UNet, as in Python's script.
  /// @param config options of the training
  /// @throws ConfigError as DiffusionTask
  void configure(const TrainingConfig& config) override;
  /// Checks a batch as TextToImageTask does, and its conditioning images.
  /// @param batch as the dataset gave it
  /// @throws ConfigError for missing captions or conditioning images; TensorError for images whose size the
  ///   `downscale_factor` of the adapter does not divide, and for conditioning images of another size than
  ///   the images or with other channels than the adapter takes
  void check_batch(const Batch& batch) override;
  /// Writes the adapter into `output_dir`, and `scheduler/` and `noise_schedule.svg`.
  /// @param output_dir holds `t2iadapter/`
  void save_extras(const std::filesystem::path& output_dir) const override;
  std::string config_json() const override;

 protected:
  Conditioning conditioning(const Batch& batch) override;
  std::shared_ptr<const ForwardProcess> make_process(const Scheduler& scheduler,
                                                     const DiffusionLossOptions& loss) const override;

 private:
  T2IAdapter adapter_;
  T2IAdapterTaskOptions adapter_options_;
};

}  // namespace diffusers

#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include <diffusers/models/fwd.h>
#include <diffusers/pipelines/pipeline.h>
#include <diffusers/schedulers/scheduler.h>
#include <diffusers/text/clip_tokenizer.h>
#include <diffusers/text/fwd.h>

namespace diffusers {

struct StableDiffusionParts;

/// The arguments of a `StableDiffusionPipeline` call, in Python's order and with Python's defaults.
struct StableDiffusionPipelineOptions {
  Texts prompt = {};  ///< one text or several; or prompt_embeds
  /// Of the images, multiples of 8 and of the autoencoder's scale; where one is missing, both are the UNet's
  /// sample_size times that scale, as in Python.
  std::optional<int64_t> height = std::nullopt;
  std::optional<int64_t> width = std::nullopt;
  int64_t num_inference_steps = 50;
  std::vector<double> timesteps = {};  ///< instead of num_inference_steps, where the scheduler takes them
  std::vector<double> sigmas = {};     ///< likewise
  double guidance_scale = 7.5;         ///< above 1 the UNet runs with and without the prompt
  Texts negative_prompt = {};          ///< as many as prompts; empty texts where there are none
  int64_t num_images_per_prompt = 1;
  double eta = 0.0;  ///< of DDIM and TCD; other schedulers do without
  std::optional<Generator> generator = std::nullopt;
  Tensor latents = {};  ///< `[B, in_channels, height / scale, width / scale]` to start from, drawn by default
  Tensor prompt_embeds = {};           ///< `[prompts, L, D]`, instead of prompt
  Tensor negative_prompt_embeds = {};  ///< of the shape of the prompt's embeddings
  EnumChoice<OutputType> output_type = OutputType::kPt;
  double guidance_rescale = 0.0;  ///< Lin et al. 2024, section 3.4
  std::optional<int64_t> clip_skip =
      std::nullopt;                           ///< how many of the text encoder's last layers are left out
  StepEndCallback callback_on_step_end = {};  ///< sees the latents
};

/// Images from texts (Rombach et al. 2022; Python: `StableDiffusionPipeline`).
///
/// The models are shared, not copied; the scheduler is copied, with `steps_offset` 1 and without
/// `clip_sample`, as in Python. Sampling runs without gradients and in eval mode, and leaves the models in
/// the mode in which it found them. With a CPU generator the images are those of Python for the same seed.
class StableDiffusionPipeline {
 public:
  /// @throws ConfigError if a model is empty
  StableDiffusionPipeline(const AutoencoderKL& vae, const CLIPTextModel& text_encoder,
                          const CLIPTokenizer& tokenizer, const UNet2DConditionModel& unet,
                          const Scheduler& scheduler);
  StableDiffusionPipeline(StableDiffusionPipeline&&) noexcept;
  StableDiffusionPipeline& operator=(StableDiffusionPipeline&&) noexcept;
  ~StableDiffusionPipeline();

  /// @return images `[prompts * num_images_per_prompt, C, height, width]` in [0, 1], those of a prompt next
  /// to each other; or their latents
  /// @throws ConfigError or TensorError naming the option that does not fit the others or the models
  ImagePipelineOutput operator()(const StableDiffusionPipelineOptions& options);

  /// Reads a folder that Python or `save_pretrained` wrote: model_index.json, vae/, text_encoder/,
  /// tokenizer/, unet/, scheduler/. safety_checker, feature_extractor and image_encoder may be there: they
  /// are not run, and a safety checker brings a warning that says so.
  /// @throws FileError if the folder, its index or a component is missing or of another class, naming it
  static StableDiffusionPipeline from_pretrained(const std::filesystem::path& folder,
                                                 const PipelineLoadOptions& options = {});
  /// Writes all of that as Python does; the folder is made if need be.
  void save_pretrained(const std::filesystem::path& folder) const;

  AutoencoderKL& vae();
  CLIPTextModel& text_encoder();
  CLIPTokenizer& tokenizer();
  UNet2DConditionModel& unet();
  /// The pipeline's own scheduler. `set_scheduler` replaces it by one of another class or config.
  Scheduler& scheduler();
  /// Replaces the scheduler by a copy of the given one (Python: `pipeline.scheduler = ...`), with
  /// `steps_offset` 1 and without `clip_sample`, as the constructor does.
  void set_scheduler(const Scheduler& scheduler);
  void set_progress_bar_config(const ProgressBarConfig& config);

 private:
  explicit StableDiffusionPipeline(std::unique_ptr<StableDiffusionParts> parts);
  std::unique_ptr<StableDiffusionParts> parts_;
};

}  // namespace diffusers

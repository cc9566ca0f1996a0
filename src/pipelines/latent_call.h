#pragma once

// A call of a pipeline that denoises latents: the scheduler's timesteps, the noise, and the guided loop.

#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/conditioning.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/pipelines/diffusion_pipeline.h>
#include <diffusers/pipelines/inference_guard.h>
#include <diffusers/pipelines/pipeline.h>
#include <diffusers/pipelines/sampling_loop.h>

namespace diffusers {
inline namespace internal {

/// The inputs of the UNet that come from the prompts.
struct EncodedPrompt {
  int64_t batch_size;  ///< number of images
  bool is_guided;      ///< the conditioning has 2 batch_size rows, the first half without the prompts
  Conditioning conditioning;
};

/// The options of a call that say how to draw.
struct DenoisingOptions {
  double guidance_scale;
  double guidance_rescale;
  double eta;
  const std::optional<Generator>& generator;
  const StepEndCallback& callback_on_step_end;
  SamplingCallback after_step = {};                ///< changes the latents before callback_on_step_end
  std::optional<int64_t> end_step = std::nullopt;  ///< position in timesteps() to stop before; none: all
};

/// Returns the options of a pipeline's call that say how to draw. Without the field guidance_rescale it is 0.
template <class Options>
DenoisingOptions denoising_options(const Options& options) {
  double guidance_rescale = 0.0;
  if constexpr (requires { options.guidance_rescale; }) guidance_rescale = options.guidance_rescale;
  return {.guidance_scale = options.guidance_scale,
          .guidance_rescale = guidance_rescale,
          .eta = options.eta,
          .generator = options.generator,
          .callback_on_step_end = options.callback_on_step_end};
}

/// The last part of the timesteps, which an image-to-image pipeline runs.
struct StepRange {
  int64_t start;  ///< position in timesteps()
  int64_t count;  ///< number of steps
};

/// The parts that the calls of all latent pipelines share. For its lifetime no gradients are recorded and the
/// models are in eval mode.
class LatentCall {
 public:
  /// @param pipeline has the components "vae", "unet" and "scheduler"
  explicit LatentCall(DiffusionPipeline& pipeline);

  const AutoencoderKL& vae() const { return vae_; }
  const UNet2DConditionModel& unet() const { return unet_; }
  Scheduler& scheduler() const { return pipeline_.scheduler(); }
  /// Side of the square of pixels that a latent stands for.
  int64_t vae_scale_factor() const;
  /// Dtype and device of the latents.
  at::TensorOptions tensor_options() const;
  /// `{height, width}` of the images that the UNet was trained with.
  /// @throws ConfigError if its sample_size is not one or two positive numbers
  std::pair<int64_t, int64_t> unet_image_size() const;
  /// `{height, width}` of the call's options; a missing one is the UNet's.
  /// @throws ConfigError if they are not positive multiples of `multiple` and of the autoencoder's scale
  std::pair<int64_t, int64_t> image_size(std::optional<int64_t> height, std::optional<int64_t> width,
                                         int64_t multiple) const;

  /// Sets the scheduler's timesteps; `timesteps` and `sigmas` are custom ones, of which one may be given.
  /// @return the number of steps
  int64_t set_timesteps(int64_t num_inference_steps, const std::vector<double>& timesteps,
                        const std::vector<double>& sigmas) const;
  /// The last `strength` of the steps; tells the scheduler where they begin.
  /// @throws ConfigError if no step is left
  StepRange last_steps(int64_t num_inference_steps, double strength) const;
  /// The noise to start from: that of the options, or drawn. Not yet scaled by init_noise_sigma().
  /// @throws TensorError if `latents` is given with another shape
  Tensor noise(const Tensor& latents, at::IntArrayRef shape, const std::optional<Generator>& generator) const;
  /// The embedding of the guidance scale, for UNets with time_cond_proj_dim.
  Tensor guidance_scale_embedding(double guidance_scale, int64_t batch_size) const;
  /// Returns true if the UNet runs with and without the prompt.
  bool is_guided(double guidance_scale) const;
  /// Adds noise of the timestep at the position `start` to clean latents.
  Tensor add_noise(const Tensor& latents, const Tensor& noise, int64_t start) const;

  /// Runs the scheduler from the position `start` in its timesteps to their end.
  /// @param denoiser predicts for one batch; guidance is added if the prompt is guided
  /// @param num_inference_steps number of steps that are run
  Tensor denoise(const Denoiser& denoiser, const EncodedPrompt& prompt, const Tensor& latents, int64_t start,
                 int64_t num_inference_steps, const DenoisingOptions& options) const;
  /// Draws the latents of images in [-1, 1], multiplied by scaling_factor.
  Tensor encode_image(const Tensor& images, const std::optional<Generator>& generator) const;
  /// The images of latents, or the latents.
  ImagePipelineOutput decode(const Tensor& latents, OutputType output_type) const;

 private:
  DiffusionPipeline& pipeline_;
  InferenceGuard guard_;
  // Separate handles, so that a callback may replace the pipeline's components.
  AutoencoderKL vae_;
  UNet2DConditionModel unet_;
};

}  // namespace internal
}  // namespace diffusers

#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/enum_names.h>
#include <diffusers/core/random.h>
#include <diffusers/core/tensor.h>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// Result of a pipeline's call (Python: `ImagePipelineOutput` with `output_type="pt"`).
struct ImagePipelineOutput {
  /// `[B, C, H, W]` in [0, 1], with the dtype and device of the model; latents for `OutputType::kLatent`.
  Tensor images;
};

/// Result of a latent pipeline: decoded images, or the latents that the autoencoder would decode.
enum class OutputType { kPt, kLatent };
/// Maps each enumerator to Python's string.
template <>
struct EnumNames<OutputType> {
  static constexpr std::string_view kKey = "output_type";  ///< the option, for messages
  /// Each output type and its name.
  static constexpr std::array<std::pair<OutputType, std::string_view>, 2> kTable{
      {{OutputType::kPt, "pt"}, {OutputType::kLatent, "latent"}}};
};

/// A function that is called after each denoising step.
/// Arguments: the index of the step from 0, the timestep (0-dim), and the sample after the step,
/// `[B, C, H, W]` around [-1, 1]. Assigning to the sample changes what the next step starts from; the new
/// tensor must have the same shape, dtype and device, otherwise the call throws TensorError.
using StepEndCallback = std::function<void(int64_t step, const Tensor& timestep, Tensor& sample)>;

/// Arguments of `set_progress_bar_config`. The bar is drawn on standard error if that is a terminal.
struct ProgressBarConfig {
  bool disable = false;   ///< draws no bar
  std::string desc = {};  ///< text before the bar; empty: "Sampling"
};

/// Arguments of a pipeline's `from_pretrained`.
struct PipelineLoadOptions {
  std::string variant = {};           ///< "fp16" reads `diffusion_pytorch_model.fp16.safetensors`
  at::ScalarType dtype = at::kFloat;  ///< dtype of all floating tensors, whatever the files hold
  at::Device device = at::kCPU;       ///< device of all models
};

}  // namespace diffusers

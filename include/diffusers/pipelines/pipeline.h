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
  /// Images `[B, C, H, W]` in [0, 1], with the dtype and device of the model. Latents for
  /// `OutputType::kLatent`.
  Tensor images;
};

/// Kind of the result of a pipeline with an autoencoder.
enum class OutputType {
  kPt,     ///< decoded images
  kLatent  ///< latents before decoding
};
/// Maps each enumerator to Python's string.
template <>
struct EnumNames<OutputType> {
  static constexpr std::string_view kKey = "output_type";  ///< the option, for messages
  /// Each output type and its name.
  static constexpr std::array<std::pair<OutputType, std::string_view>, 2> kTable{
      {{OutputType::kPt, "pt"}, {OutputType::kLatent, "latent"}}};
};

/// A function that is called after each denoising step. It may assign a new sample, from which the next step
/// starts. If shape, dtype or device of the new sample differ, the pipeline throws TensorError.
/// @param step index of the step, from 0
/// @param timestep the timestep, 0-dim
/// @param sample sample after the step, `[B, C, H, W]` around [-1, 1]
using StepEndCallback = std::function<void(int64_t step, const Tensor& timestep, Tensor& sample)>;

/// Settings of a pipeline's progress bar. The bar is written to standard error if that is a terminal.
struct ProgressBarConfig {
  bool disable = false;   ///< disables the progress bar
  std::string desc = {};  ///< text before the bar; empty: "Sampling"
};

/// Arguments of a pipeline's `from_pretrained`.
struct PipelineLoadOptions {
  std::string variant = {};           ///< "fp16" reads `diffusion_pytorch_model.fp16.safetensors`
  at::ScalarType dtype = at::kFloat;  ///< dtype that all floating tensors are converted to
  at::Device device = at::kCPU;       ///< device that the models are loaded to
};

}  // namespace diffusers

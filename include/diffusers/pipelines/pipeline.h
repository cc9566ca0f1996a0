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

/// What a pipeline returns (Python: `ImagePipelineOutput` with `output_type="pt"`).
struct ImagePipelineOutput {
  Tensor images;  ///< `[B, C, H, W]`, the model's dtype and device, in [0, 1]
};

/// What a latent pipeline gives: images, or the latents that its autoencoder would have decoded.
enum class OutputType { kPt, kLatent };
template <>
struct EnumNames<OutputType> {
  static constexpr std::string_view kKey = "output_type";
  static constexpr std::array<std::pair<OutputType, std::string_view>, 2> kTable{
      {{OutputType::kPt, "pt"}, {OutputType::kLatent, "latent"}}};
};

/// Called after each denoising step: its index from 0, the timestep (0-dim), and the sample after the step,
/// `[B, C, H, W]` around [-1, 1]. Assigning to the sample changes what the next step starts from; what is
/// assigned must have the same shape, dtype and device.
using StepEndCallback = std::function<void(int64_t step, const Tensor& timestep, Tensor& sample)>;

/// Python: the arguments of `set_progress_bar_config`. The bar is drawn on standard error, and only on a
/// terminal.
struct ProgressBarConfig {
  bool disable = false;
  std::string desc = {};
};

/// Arguments of a pipeline's `from_pretrained`.
struct PipelineLoadOptions {
  std::string variant = {};           ///< "fp16" reads `diffusion_pytorch_model.fp16.safetensors`
  at::ScalarType dtype = at::kFloat;  ///< what the floating tensors become, whatever the files hold
  at::Device device = at::kCPU;
};

}  // namespace diffusers

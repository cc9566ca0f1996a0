#include "models/unet/row_parts.h"

#include <algorithm>
#include <typeinfo>
#include <utility>

#include <diffusers/models/unet_2d.h>
#include <diffusers/models/unet_2d_condition.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/nn/module.h>

#include "core/batch_parts.h"
#include "core/part_threads.h"
#include "models/conditioning_fields.h"
#include "models/layers/autocast_scope.h"
#include "models/unet/captured_denoiser.h"

namespace diffusers {
inline namespace internal {
namespace {

int64_t count_parameters(const torch::nn::Module& model) {
  int64_t count = 0;
  for (const Tensor& parameter : model.parameters()) count += parameter.numel();
  return count;
}

/// @param sample `[B, C, H, W]`
/// @param parameters number of parameters of the model
int64_t automatic_parts_of(const Tensor& sample, int64_t parameters) {
  if (at::GradMode::is_enabled() || !sample.defined() || !sample.is_cpu() || sample.dim() != 4 ||
      sample.numel() == 0)
    return 1;
  return automatic_parts(
      {.batch_size = sample.size(0), .positions = sample.size(2) * sample.size(3), .parameters = parameters},
      threads_of_parts());
}

}  // namespace

RowParts cut_rows(const Tensor& sample, const Tensor& timesteps, const Conditioning& conditioning,
                  int64_t parts) {
  RowParts cut;
  if (parts < 2 || !sample.defined() || sample.dim() == 0 || sample.size(0) < 2 || !timesteps.defined())
    return cut;
  const int64_t rows = sample.size(0);
  bool fits = timesteps.dim() == 0 || timesteps.size(0) == rows;
  for_each_conditioning_tensor(conditioning, [&](const char*, const Tensor& tensor) {
    fits = fits && (!tensor.defined() || (tensor.dim() > 0 && tensor.size(0) == rows));
  });
  if (!fits) return cut;
  const int64_t size = (rows + parts - 1) / parts;
  for (int64_t first = 0; first < rows; first += size) {
    const int64_t last = std::min(first + size, rows);
    cut.samples.push_back(sample.slice(0, first, last));
    cut.timesteps.push_back(timesteps.dim() == 0 ? timesteps : timesteps.slice(0, first, last));
    cut.conditionings.push_back(conditioning.slice(first, last));
  }
  return cut;
}

std::vector<Tensor> denoise_parts(const Denoiser& denoise, const RowParts& parts) {
  std::vector<Tensor> outputs(parts.size());
  const AutocastState state = AutocastState::current(at::kCPU);
  for_each_part(static_cast<int64_t>(parts.size()), [&](int64_t index) {
    const auto i = static_cast<std::size_t>(index);
    const AutocastScope autocast(state);
    outputs[i] = denoise(parts.samples[i], parts.timesteps[i], parts.conditionings[i]);
  });
  return outputs;
}

Denoiser in_automatic_parts(Denoiser denoise, const torch::nn::Module& model) {
  if (!is_thread_safe_model(model) || has_batch_statistics(model)) return denoise;
  return [denoise = captured_denoiser(std::move(denoise)), parameters = count_parameters(model)](
             const Tensor& sample, const Tensor& timesteps, const Conditioning& conditioning) {
    const int64_t parts = automatic_parts_of(sample, parameters);
    const RowParts cut = cut_rows(sample, timesteps, conditioning, parts);
    return cut.size() < 2 ? denoise(sample, timesteps, conditioning) : at::cat(denoise_parts(denoise, cut));
  };
}

int64_t automatic_parts_of(const torch::nn::Module& model, const Tensor& sample) {
  if (!is_thread_safe_model(model) || has_batch_statistics(model)) return 1;
  return automatic_parts_of(sample, count_parameters(model));
}

bool is_thread_safe_model(const torch::nn::Module& model) {
  return typeid(model) == typeid(UNet2DModelImpl) || typeid(model) == typeid(UNet2DConditionModelImpl);
}

bool has_batch_statistics(const torch::nn::Module& model) {
  for (const auto& buffer : model.named_buffers())
    if (buffer.key().ends_with("running_mean")) return true;
  return false;
}

}  // namespace internal
}  // namespace diffusers

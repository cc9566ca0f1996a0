#include "models/unet/captured_denoiser.h"

#include <utility>
#include <vector>

#include <diffusers/core/cuda_options.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

namespace diffusers {
inline namespace internal {
namespace {

/// The fields that a captured call passes on, in a fixed order.
std::vector<Tensor> captured_fields(const Conditioning& conditioning) {
  const AddedCondKwargs& added = conditioning.added_cond_kwargs;
  return {conditioning.class_labels,
          conditioning.encoder_hidden_states,
          conditioning.encoder_attention_mask,
          conditioning.timestep_cond,
          conditioning.attention_mask,
          conditioning.extra_channels,
          added.text_embeds,
          added.time_ids,
          added.image_embeds,
          added.hint};
}

/// @param fields as `captured_fields` gives them
Conditioning conditioning_of(const Tensor* fields) {
  Conditioning conditioning;
  AddedCondKwargs& added = conditioning.added_cond_kwargs;
  for (Tensor* field :
       {&conditioning.class_labels, &conditioning.encoder_hidden_states, &conditioning.encoder_attention_mask,
        &conditioning.timestep_cond, &conditioning.attention_mask, &conditioning.extra_channels,
        &added.text_embeds, &added.time_ids, &added.image_embeds, &added.hint})
    *field = *fields++;
  return conditioning;
}

bool has_residuals(const Conditioning& conditioning) {
  return !conditioning.down_block_additional_residuals.empty() ||
         conditioning.mid_block_additional_residual.defined() ||
         !conditioning.down_intrablock_additional_residuals.empty();
}

bool are_on_device(const std::vector<Tensor>& inputs, at::Device device) {
  for (const Tensor& input : inputs)
    if (input.defined() && input.device() != device) return false;
  return true;
}

}  // namespace

Denoiser captured_denoiser(Denoiser denoise, std::function<bool(const Tensor& sample)> captures,
                           std::function<std::unique_ptr<GraphBackend>()> make_backend) {
  // Shared by the copies of the denoiser, which belong to one sampling run.
  auto graph = std::make_shared<std::unique_ptr<CapturedGraph>>();
  return [denoise = std::move(denoise), captures = std::move(captures),
          make_backend = std::move(make_backend), graph = std::move(graph)](
             const Tensor& sample, const Tensor& timesteps, const Conditioning& conditioning) {
    std::vector<Tensor> inputs = captured_fields(conditioning);
    inputs.insert(inputs.begin(), {sample, timesteps});
    // A timestep on the host would be a constant of the graph.
    if (at::GradMode::is_enabled() || !sample.defined() || !captures(sample) || has_residuals(conditioning) ||
        !are_on_device(inputs, sample.device()))
      return denoise(sample, timesteps, conditioning);
    if (*graph == nullptr)
      *graph = std::make_unique<CapturedGraph>("the sampling step", make_backend(), std::vector<Generator>());
    const std::vector<Tensor> outputs = (*graph)->run(inputs, [&](const std::vector<Tensor>& given) {
      return std::vector<Tensor>{denoise(given[0], given[1], conditioning_of(&given[2]))};
    });
    // The next replay writes the same memory; a multistep scheduler keeps earlier predictions.
    return (*graph)->was_replayed() ? outputs[0].clone() : outputs[0];
  };
}

Denoiser captured_denoiser(Denoiser denoise) {
  return captured_denoiser(
      std::move(denoise), [](const Tensor& sample) { return sample.is_cuda() && cuda_options().graphs; },
      [] { return make_cuda_graph_backend(); });
}

}  // namespace internal
}  // namespace diffusers

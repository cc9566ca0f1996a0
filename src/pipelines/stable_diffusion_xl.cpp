#include "pipelines/stable_diffusion_xl.h"

#include <cmath>
#include <memory>
#include <string>

#include <diffusers/core/error.h>
#include <diffusers/models/unet_enums.h>

#include <ATen/ATen.h>

#include "core/require.h"

namespace diffusers {
inline namespace internal {
namespace {

/// A copy of the autoencoder in float32, so that the caller's stays as it is.
AutoencoderKL upcast(const AutoencoderKL& vae) {
  const auto copy = std::dynamic_pointer_cast<AutoencoderKLImpl>(vae->clone());
  copy->to(at::kFloat);
  copy->eval();
  return AutoencoderKL(copy);
}

/// Mean and standard deviation of the latents, `[1, C, 1, 1]`; undefined if the config lacks one.
struct LatentStatistics {
  Tensor mean;
  Tensor std;
};

LatentStatistics latent_statistics(const AutoencoderKLConfig& config, const at::TensorOptions& options) {
  if (config.latents_mean.empty() || config.latents_std.empty()) return {};
  const auto channels = [&](const std::vector<double>& values) {
    return at::tensor(values, at::kDouble).view({1, static_cast<int64_t>(values.size()), 1, 1}).to(options);
  };
  return {channels(config.latents_mean), channels(config.latents_std)};
}

}  // namespace

std::vector<double> two_numbers(const char* name, const std::vector<int64_t>& values,
                                const std::vector<int64_t>& fallback) {
  const std::vector<int64_t>& chosen = values.empty() ? fallback : values;
  require<ConfigError>(chosen.size() == 2, "{} has {} elements, expected two", name, chosen.size());
  return {static_cast<double>(chosen[0]), static_cast<double>(chosen[1])};
}

Tensor StableDiffusionXLCall::time_ids(const TimeIds& ids, const EncodedPrompt& prompt,
                                       const char* hint) const {
  const UNet2DConditionModelConfig& config = unet()->config();
  require<ConfigError>(
      config.addition_embed_type == EnumChoice(AdditionEmbedType::kTextTime) &&
          config.addition_time_embed_dim && config.projection_class_embeddings_input_dim,
      "the UNet's addition_embed_type is \"{}\", expected \"text_time\", as Stable Diffusion "
      "XL has it",
      config.addition_embed_type ? std::string(config.addition_embed_type->name()) : "none");
  const int64_t pooled = prompt.conditioning.added_cond_kwargs.text_embeds.size(1);
  const int64_t found = *config.addition_time_embed_dim * static_cast<int64_t>(ids.size()) + pooled;
  require<ConfigError>(found == *config.projection_class_embeddings_input_dim,
                       "{} time ids and {} channels of the pooled embeddings make {} inputs, the UNet's "
                       "projection_class_embeddings_input_dim is {}{}",
                       ids.size(), pooled, found, *config.projection_class_embeddings_input_dim, hint);
  // at::tensor has no bfloat16 on the CPU.
  return at::tensor(ids, at::kDouble).to(tensor_options()).unsqueeze(0);
}

double StableDiffusionXLCall::cutoff(const char* name, double denoised) const {
  require<ConfigError>(denoised > 0 && denoised < 1, "{} is {}, expected a number between 0 and 1", name,
                       denoised);
  const auto total = static_cast<double>(scheduler().num_train_timesteps());
  return std::nearbyint(total - denoised * total);
}

std::optional<int64_t> StableDiffusionXLCall::end_step(const std::optional<double>& denoising_end,
                                                       int64_t start) const {
  if (!denoising_end || *denoising_end == 1) return std::nullopt;
  const double last = cutoff("denoising_end", *denoising_end);
  const Tensor timesteps = scheduler().timesteps().slice(0, start);
  const auto count = (timesteps >= last).sum().item<int64_t>();
  require<ConfigError>(count > 0, "denoising_end is {}, which leaves none of {} timesteps", *denoising_end,
                       timesteps.size(0));
  return start + count;
}

StepRange StableDiffusionXLCall::steps_from(double denoising_start) const {
  const double first = cutoff("denoising_start", denoising_start);
  const Timesteps timesteps = scheduler().timesteps();
  auto count = (timesteps < first).sum().item<int64_t>();
  require<ConfigError>(count > 0, "denoising_start is {}, which leaves none of {} timesteps", denoising_start,
                       timesteps.size(0));
  // A scheduler of order 2 visits each timestep but the first twice; a step is not cut in the middle.
  if (scheduler().order() == 2 && count % 2 == 0) ++count;
  const int64_t start = timesteps.size(0) - count;
  if (scheduler().has_begin_index()) scheduler().set_begin_index(start);
  return {start, count};
}

Tensor StableDiffusionXLCall::encode_image(const Tensor& images,
                                           const std::optional<Generator>& generator) const {
  const at::ScalarType dtype = vae()->parameters().front().scalar_type();
  const bool is_reduced = dtype == at::kHalf || dtype == at::kBFloat16;
  const AutoencoderKL model = is_reduced && vae()->config().force_upcast ? upcast(vae()) : vae();
  const auto posterior = model->encode(images.to(model->parameters().front().options())).latent_dist;
  const Tensor latents = posterior.sample(generator).to(tensor_options());
  const LatentStatistics statistics = latent_statistics(vae()->config(), tensor_options());
  const double scaling_factor = vae()->config().scaling_factor;
  return statistics.mean.defined() ? (latents - statistics.mean) * scaling_factor / statistics.std
                                   : scaling_factor * latents;
}

ImagePipelineOutput StableDiffusionXLCall::decode(const Tensor& latents, OutputType output_type) const {
  if (output_type == OutputType::kLatent) return {latents};
  const bool is_half = vae()->parameters().front().scalar_type() == at::kHalf;
  const AutoencoderKL model = is_half && vae()->config().force_upcast ? upcast(vae()) : vae();
  Tensor z = latents.to(model->parameters().front().options());
  const LatentStatistics statistics = latent_statistics(vae()->config(), z.options());
  const double scaling_factor = vae()->config().scaling_factor;
  z = statistics.mean.defined() ? z * statistics.std / scaling_factor + statistics.mean : z / scaling_factor;
  const Tensor images = model->decode(z).sample;
  return {(images * 0.5 + 0.5).clamp(0, 1)};
}

}  // namespace internal
}  // namespace diffusers

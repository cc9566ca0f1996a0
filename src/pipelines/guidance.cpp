#include <cmath>
#include <utility>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/pipelines/guidance.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "models/conditioning_fields.h"

namespace diffusers {
namespace {

/// Checks that every field of a guided batch has its unconditional and its conditional rows.
void check_rows(const Conditioning& conditioning, int64_t batch_size) {
  for_each_conditioning_tensor(conditioning, [&](const char* name, const Tensor& tensor) {
    require<TensorError>(!tensor.defined() || (tensor.dim() > 0 && tensor.size(0) == 2 * batch_size),
                         "classifier_free_guidance: {} is {}, expected {} rows for a batch of {}: the "
                         "unconditional ones, then the conditional ones",
                         name, describe(tensor), 2 * batch_size, batch_size);
  });
}

}  // namespace

Tensor rescale_guidance(const Tensor& guided, const Tensor& conditional, double guidance_rescale) {
  std::vector<int64_t> dims;
  for (int64_t d = 1; d < guided.dim(); ++d) dims.push_back(d);
  const Tensor std_conditional = at::std(conditional, at::IntArrayRef(dims), true, true);
  const Tensor std_guided = at::std(guided, at::IntArrayRef(dims), true, true);
  return guidance_rescale * (guided * (std_conditional / std_guided)) + (1 - guidance_rescale) * guided;
}

Denoiser classifier_free_guidance(Denoiser denoiser, const GuidanceOptions& options) {
  require<ConfigError>(static_cast<bool>(denoiser),
                       "classifier_free_guidance: denoiser is an empty function");
  require<ConfigError>(std::isfinite(options.guidance_scale),
                       "classifier_free_guidance: guidance_scale is {}, expected a finite number",
                       options.guidance_scale);
  require<ConfigError>(std::isfinite(options.guidance_rescale),
                       "classifier_free_guidance: guidance_rescale is {}, expected a finite number",
                       options.guidance_rescale);
  return [denoiser = std::move(denoiser), options](const Tensor& noisy, const Tensor& timesteps,
                                                   const Conditioning& conditioning) {
    check_rows(conditioning, noisy.size(0));
    const Tensor t = timesteps.dim() > 0 ? at::cat({timesteps, timesteps}) : timesteps;
    const std::vector<Tensor> halves = denoiser(at::cat({noisy, noisy}), t, conditioning).chunk(2);
    // Ho and Salimans 2022, eq. 6, with the scale w + 1
    const Tensor guided = halves[0] + options.guidance_scale * (halves[1] - halves[0]);
    return options.guidance_rescale > 0 ? rescale_guidance(guided, halves[1], options.guidance_rescale)
                                        : guided;
  };
}

}  // namespace diffusers

#pragma once

// The forward pass of a sampling step as a CUDA graph.

#include <functional>
#include <memory>

#include <diffusers/models/conditioning.h>

#include "core/captured_graph.h"

namespace diffusers {
inline namespace internal {

/// Makes a denoiser that is captured after two calls and then replayed, for the calls without gradients whose
/// sample is on a device that `captures` accepts.
/// @param denoise forward of a model of the library, whose work depends on its tensors alone
/// @param captures decides by the sample
/// @param make_backend makes the backend at the first call that is captured
/// @return the same predictions; a call with inputs of a ControlNet or a T2I-Adapter is not captured
Denoiser captured_denoiser(Denoiser denoise, std::function<bool(const Tensor& sample)> captures,
                           std::function<std::unique_ptr<GraphBackend>()> make_backend);

/// Captures on CUDA devices if `CudaOptions::graphs` is set.
Denoiser captured_denoiser(Denoiser denoise);

}  // namespace internal
}  // namespace diffusers

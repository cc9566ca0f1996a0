#pragma once

// Parts of a batch that a denoiser computes on several threads of the CPU.

#include <cstddef>
#include <cstdint>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/models/conditioning.h>

namespace torch::nn {
class Module;
}  // namespace torch::nn

namespace diffusers {
inline namespace internal {

/// The inputs of a denoiser, cut into parts with some rows each.
struct RowParts {
  std::vector<Tensor> samples, timesteps;   ///< of each part
  std::vector<Conditioning> conditionings;  ///< of each part

  /// Returns the number of parts.
  std::size_t size() const { return samples.size(); }
};

/// Cuts a batch into parts of ceil(B / parts) rows; the last part may have fewer. The parts are views.
/// @param sample `[B, ...]`
/// @param timesteps `[B]` or 0-dim
/// @param conditioning inputs with B rows
/// @param parts number of parts, 1 or more
/// @return empty if the batch cannot be divided: there is one part or one row, or a field of the conditioning
///   has another number of rows
RowParts cut_rows(const Tensor& sample, const Tensor& timesteps, const Conditioning& conditioning,
                  int64_t parts);

/// Calls a denoiser for each part, one thread for a part, under the autocast settings of the caller.
/// @param denoise a function that several threads may call at once
/// @param parts the inputs
/// @return the prediction for each part, with its own graph if gradients are enabled
std::vector<Tensor> denoise_parts(const Denoiser& denoise, const RowParts& parts);

/// Makes a denoiser that computes the batches of a model in parts where `automatic_parts` finds that faster:
/// on the CPU, without gradients. On a CUDA device it captures the forward pass if `CudaOptions::graphs` is
/// set.
/// @param denoise forward of the model
/// @param model a model of the library, whose parameters are counted
/// @return the same predictions up to rounding
Denoiser in_automatic_parts(Denoiser denoise, const torch::nn::Module& model);

/// Returns the number of parts that the denoiser of `in_automatic_parts` cuts a batch into.
/// @param model a model of the library
/// @param sample `[B, C, H, W]`
int64_t automatic_parts_of(const torch::nn::Module& model, const Tensor& sample);

/// Returns true for a denoising model of this library, whose `forward` changes nothing in the model: several
/// threads may call it at once.
bool is_thread_safe_model(const torch::nn::Module& model);

/// Returns true if the model normalises with statistics of whole batches, as batch normalisation does.
bool has_batch_statistics(const torch::nn::Module& model);

}  // namespace internal
}  // namespace diffusers

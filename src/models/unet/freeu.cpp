#include <optional>
#include <vector>

#include <torch/types.h>

#include "models/unet/unet_2d_blocks.h"

namespace diffusers {
inline namespace internal {
namespace {

/// Scales the lowest frequencies of each image plane. As in Python, the arithmetic is float32 for every
/// dtype.
Tensor scale_low_frequencies(const Tensor& image, double scale) {
  constexpr int64_t kThreshold = 1;
  const std::vector<int64_t> dims{-2, -1};
  const auto frequencies =
      torch::fft_fftshift(torch::fft_fftn(image.to(torch::kFloat32), std::nullopt, dims), dims);
  auto mask = torch::ones(frequencies.sizes().slice(2), image.options().dtype(torch::kFloat32));
  const int64_t row = image.size(2) / 2;
  const int64_t column = image.size(3) / 2;
  mask.slice(0, row - kThreshold, row + kThreshold)
      .slice(1, column - kThreshold, column + kThreshold)
      .fill_(scale);
  const auto scaled = torch::fft_ifftshift(frequencies * mask, dims);
  return torch::real(torch::fft_ifftn(scaled, std::nullopt, dims)).to(image.scalar_type());
}

}  // namespace

Tensor apply_freeu(UNetState& state, const Tensor& residual) {
  const auto& freeu = state.freeu;
  if (!freeu || state.up_block_index > 1 || !residual.defined()) return residual;
  const bool first = state.up_block_index == 0;
  const int64_t half = state.hidden_states.size(1) / 2;
  state.hidden_states = torch::cat({state.hidden_states.narrow(1, 0, half) * (first ? freeu->b1 : freeu->b2),
                                    state.hidden_states.slice(1, half)},
                                   1);
  return scale_low_frequencies(residual, first ? freeu->s1 : freeu->s2);
}

}  // namespace internal
}  // namespace diffusers

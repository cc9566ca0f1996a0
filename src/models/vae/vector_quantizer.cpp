#include <algorithm>
#include <cmath>

#include <diffusers/models/vector_quantizer.h>

#include <torch/nn/init.h>
#include <torch/types.h>

#include "core/require.h"

namespace diffusers {

VectorQuantizerImpl::VectorQuantizerImpl(int64_t n_e, int64_t vq_embed_dim, double beta,
                                         const VectorQuantizerOptions& options)
    : n_e_(n_e), vq_embed_dim_(vq_embed_dim), beta_(beta), options_(options) {
  require<ConfigError>(std::isfinite(beta), "beta is {}, expected a finite number", beta);
  embedding = register_module("embedding", layers::Embedding(n_e, vq_embed_dim));
  if (layers::SkipInitGuard::active()) return;
  const double bound = 1.0 / static_cast<double>(n_e);
  torch::nn::init::uniform_(embedding->weight, -bound, bound);
}

VectorQuantizerOutput VectorQuantizerImpl::forward(const Tensor& z) const {
  require<TensorError>(z.defined() && z.dim() == 4 && z.size(1) == vq_embed_dim_ && z.is_floating_point(),
                       "z: expected floating [B, {}, H, W], got {}", vq_embed_dim_, describe(z));
  const auto channels_last = z.permute({0, 2, 3, 1}).contiguous();
  Tensor indices;
  {
    const torch::NoGradGuard no_grad;
    const auto& codebook = embedding->weight;
    indices = torch::cdist(channels_last.view({-1, vq_embed_dim_}), codebook).argmin(1);
  }
  const auto nearest = embedding->forward(indices).view(channels_last.sizes());

  const auto commitment = torch::mean(torch::pow(nearest.detach() - channels_last, 2));
  const auto codebook_loss = torch::mean(torch::pow(nearest - channels_last.detach(), 2));
  // The legacy form weights the wrong term. It is Python's default, for the models that were trained with it.
  const auto loss = options_.legacy ? commitment + beta_ * codebook_loss : beta_ * commitment + codebook_loss;

  const auto straight_through = channels_last + (nearest - channels_last).detach();
  auto quantized = straight_through.permute({0, 3, 1, 2}).contiguous();
  if (options_.sane_index_shape) indices = indices.view({z.size(0), z.size(2), z.size(3)});
  return {.quantized = quantized, .loss = loss, .indices = indices};
}

Tensor VectorQuantizerImpl::get_codebook_entry(const Tensor& indices,
                                               const std::vector<int64_t>& shape) const {
  require<TensorError>(indices.defined() && at::isIntegralType(indices.scalar_type(), /*includeBool=*/false),
                       "indices: expected integers, got {}", describe(indices));
  require<TensorError>(indices.device() == embedding->weight.device(),
                       "indices are on {}, the codebook on {}", indices.device().str(),
                       embedding->weight.device().str());
  if (indices.is_cpu() && indices.numel() > 0) {
    const auto lowest = indices.min().item<int64_t>();
    const auto highest = indices.max().item<int64_t>();
    require<TensorError>(lowest >= 0 && highest < n_e_, "indices: expected numbers in [0, {}), got {}", n_e_,
                         lowest < 0 ? lowest : highest);
  }
  auto entries = embedding->forward(indices.to(torch::kLong));
  if (shape.empty()) return entries;
  int64_t places = 1;
  for (std::size_t i = 0; i + 1 < shape.size(); ++i) places *= std::max<int64_t>(shape[i], 0);
  require<TensorError>(shape.size() == 4 && shape[3] == vq_embed_dim_ && places == indices.numel(),
                       "shape is {}, expected {{B, H, W, {}}} with one place for each of the {} indices",
                       shape_string(shape), vq_embed_dim_, indices.numel());
  return entries.view(shape).permute({0, 3, 1, 2}).contiguous();
}

}  // namespace diffusers

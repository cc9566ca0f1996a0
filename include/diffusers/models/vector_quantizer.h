#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/models/layers.h>

namespace diffusers {

/// The optional arguments of Python's `VectorQuantizer(...)`.
struct VectorQuantizerOptions {
  bool sane_index_shape = false;  ///< returns indices as `[B, H, W]`; false: `[B * H * W]`
  bool legacy = true;             ///< beta is the weight of the codebook loss; false: of the commitment loss
};

/// The result of `VectorQuantizer::forward`.
struct VectorQuantizerOutput {
  Tensor quantized;  ///< `[B, vq_embed_dim, H, W]`; its gradient is passed to z (straight-through)
  Tensor loss;       ///< 0-dim, sum of codebook and commitment loss
  Tensor indices;    ///< int64 `[B * H * W]`, or `[B, H, W]` with sane_index_shape
};

/// Replaces each vector by the nearest vector of a codebook (van den Oord et al. 2017; diffusers
/// `VectorQuantizer`). Python's `remap`, which no model sets, is not supported.
class VectorQuantizerImpl : public torch::nn::Module {
 public:
  /// Draws the codebook.
  /// @param n_e number of vectors
  /// @param vq_embed_dim length of a vector
  /// @param beta weight of one term of the loss, see `VectorQuantizerOptions::legacy`
  /// @param options the other arguments
  VectorQuantizerImpl(int64_t n_e, int64_t vq_embed_dim, double beta,
                      const VectorQuantizerOptions& options = {});
  /// Quantizes latents.
  /// @param z `[B, vq_embed_dim, H, W]`
  /// @return quantized latents, loss and indices
  /// @throws TensorError if the shape does not fit
  VectorQuantizerOutput forward(const Tensor& z) const;
  /// Looks up vectors of the codebook.
  /// @param indices integral, each in [0, n_e)
  /// @param shape `{B, H, W, vq_embed_dim}`, or empty
  /// @return `[B, vq_embed_dim, H, W]`; without a shape: shape of indices with vq_embed_dim
  ///   at the end
  /// @throws TensorError if an index or the shape does not fit
  Tensor get_codebook_entry(const Tensor& indices, const std::vector<int64_t>& shape = {}) const;

  layers::Embedding embedding{nullptr};  ///< the codebook, weight `[n_e, vq_embed_dim]`

 private:
  int64_t n_e_;
  int64_t vq_embed_dim_;
  double beta_;
  VectorQuantizerOptions options_;
};
/// A handle of a `VectorQuantizerImpl`.
TORCH_MODULE(VectorQuantizer);

}  // namespace diffusers

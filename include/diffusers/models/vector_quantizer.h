#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/models/layers.h>

namespace diffusers {

struct VectorQuantizerOptions {
  bool sane_index_shape = false;  ///< indices as `[B, H, W]`
  bool legacy = true;             ///< beta weighs the codebook's term of the loss, else the encoder's
};

struct VectorQuantizerOutput {
  Tensor quantized;  ///< `[B, vq_embed_dim, H, W]`; its gradient goes to z as if it were z
  Tensor loss;       ///< 0-dim: codebook and commitment loss
  Tensor indices;    ///< int64 `[B * H * W]`, or `[B, H, W]` with sane_index_shape
};

/// Replaces each vector by the nearest one of a codebook (van den Oord et al. 2017; diffusers
/// `VectorQuantizer`). Python's `remap`, which no model sets, does not exist here.
class VectorQuantizerImpl : public torch::nn::Module {
 public:
  /// @param n_e vectors of the codebook
  /// @param vq_embed_dim their length
  /// @param beta weight of the commitment in the loss
  VectorQuantizerImpl(int64_t n_e, int64_t vq_embed_dim, double beta,
                      const VectorQuantizerOptions& options = {});
  /// @param z `[B, vq_embed_dim, H, W]`
  /// @throws TensorError if the shape does not fit
  VectorQuantizerOutput forward(const Tensor& z) const;
  /// The vectors of the codebook at `indices`.
  /// @param indices integral
  /// @param shape `{B, H, W, vq_embed_dim}`, and the result is `[B, vq_embed_dim, H, W]`; empty for the shape
  /// of
  ///   indices with vq_embed_dim at the end
  /// @throws TensorError if an index or the shape does not fit
  Tensor get_codebook_entry(const Tensor& indices, const std::vector<int64_t>& shape = {}) const;

  layers::Embedding embedding{nullptr};  ///< the codebook, weight `[n_e, vq_embed_dim]`

 private:
  int64_t n_e_;
  int64_t vq_embed_dim_;
  double beta_;
  VectorQuantizerOptions options_;
};
TORCH_MODULE(VectorQuantizer);

}  // namespace diffusers

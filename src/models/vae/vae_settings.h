#pragma once

namespace diffusers {
inline namespace internal {

/// Copies the slicing and tiling of an autoencoder, which are no fields of its config.
template <class Autoencoder>
void copy_slices_and_tiles(const Autoencoder& from, Autoencoder& to) {
  to.use_slicing = from.use_slicing;
  to.use_tiling = from.use_tiling;
  to.tile_sample_min_size = from.tile_sample_min_size;
  to.tile_latent_min_size = from.tile_latent_min_size;
  to.tile_overlap_factor = from.tile_overlap_factor;
}

}  // namespace internal
}  // namespace diffusers

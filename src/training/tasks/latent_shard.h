#pragma once

// A file of a LatentCache as a shard of WebDataset:
//   __latents__/about.json   version, SHA-256 of the autoencoder, number of images of each sample
//   000000007.npy            means and log-variances of sample 7, float32 [C, h, w]
//   000000007.mirrored.npy   those of the mirrored image
//   000000007.json           the hashes of the images

#include <memory>
#include <string>

#include "training/tasks/latent_file.h"

namespace diffusers {
inline namespace internal {

/// Opens a shard. Reads the place of each member, and the hashes.
/// @throws FileError naming the shard and the member if it is damaged
std::shared_ptr<const LatentFile> open_latent_shard(const std::string& path);

/// Writes a shard atomically.
/// @throws FileError if it cannot be written
void write_latent_shard(const std::string& path, const LatentEntries& entries);

}  // namespace internal
}  // namespace diffusers

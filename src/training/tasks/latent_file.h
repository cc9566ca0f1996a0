#pragma once

// One file of a LatentCache: a safetensors file, or a shard that WebDataset can read too.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/training/latent_cache.h>

namespace diffusers {
inline namespace internal {

/// The latents of some samples, as they are written.
struct LatentEntries {
  std::vector<int64_t> indices;     ///< samples of the file
  int64_t variants = 1;             ///< images of each sample: 1, or 2 with the mirrored one
  std::vector<Tensor> moments;      ///< `[C, h, w]` float32 of each sample and variant; sizes may differ
  std::vector<uint64_t> hashes;     ///< of the image of each sample and variant
  std::string format, fingerprint;  ///< version of the cache; SHA-256 of the autoencoder
};

/// An open file of a cache. May be read from several threads at once.
class LatentFile {
 public:
  virtual ~LatentFile() = default;
  /// Returns a text of the file, "format" or "fingerprint"; empty if it is not there.
  virtual std::string about(const std::string& key) const = 0;
  /// Returns the hash of each sample and variant.
  /// @return `samples * variants` numbers; empty if the file has none of that shape
  virtual std::vector<uint64_t> hashes(int64_t samples, int64_t variants) const = 0;
  /// Returns true if the file has the latents of a sample and variant.
  virtual bool contains(int64_t index, int64_t variant) const = 0;
  /// Reads the latents of a sample and variant.
  /// @throws FileError naming the file if they cannot be read
  virtual Tensor get(int64_t index, int64_t variant) const = 0;
};

/// Opens a file.
/// @throws FileError naming the file if it is damaged
std::shared_ptr<const LatentFile> open_latent_file(const std::string& path, LatentCacheFormat format);

/// Writes a file atomically.
/// @throws FileError if it cannot be written
void write_latent_file(const std::string& path, LatentCacheFormat format, const LatentEntries& entries);

}  // namespace internal
}  // namespace diffusers

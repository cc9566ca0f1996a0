#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/tensor.h>
#include <diffusers/data/dataset.h>
#include <diffusers/training/latent_encoder.h>

namespace diffusers {

/// Form of the files of a LatentCache.
enum class LatentCacheFormat {
  kSafetensors,  ///< "safetensors": `latents-00000.safetensors`
  kTar           ///< "tar": `latents-00000.tar`, shards that Python's WebDataset reads too
};

/// The strings of the enumerators of LatentCacheFormat.
template <>
struct EnumNames<LatentCacheFormat> {
  /// Name of the option in error messages.
  static constexpr std::string_view kKey = "format";
  /// Enumerators and their strings.
  static constexpr std::array<std::pair<LatentCacheFormat, std::string_view>, 2> kTable{
      {{LatentCacheFormat::kSafetensors, "safetensors"}, {LatentCacheFormat::kTar, "tar"}}};
};

inline namespace internal {
/// A file of a cache. The type is private to the library (src/training/tasks/latent_file.h).
class LatentFile;
}  // namespace internal

/// Options of a LatentCache.
struct LatentCacheOptions {
  int64_t batch_size = 8;          ///< number of images that are encoded at once, at least 1
  bool random_flip = false;        ///< also keeps the latents of the mirrored images
  int64_t samples_per_file = 256;  ///< number of samples in one file of the cache, at least 1
  /// Form of the files. Files of the other form in the folder are neither read nor removed.
  EnumChoice<LatentCacheFormat> format = LatentCacheFormat::kSafetensors;
};

/// The distributions of the latents of a dataset, on disk. Means and log-variances are kept, so that each
/// step of a training draws latents anew.
///
/// An entry belongs to the index of a sample, to one variant of its image (as it is, or mirrored), and to the
/// pixels of that variant. A file of the cache belongs to one autoencoder: a file that another config or
/// other weights wrote, and a file with an image that has changed, is made anew by `build`.
///
/// Each file, `latents-00000.safetensors` or `latents-00000.tar`, appears complete or not at all. A process
/// that is killed loses the file that it was working on. A damaged file is named in the log and made anew.
///
/// In a shard, the members of sample 7 are `000000007.npy`, the means and log-variances of its latents as
/// float32
/// `[C, h, w]`, `000000007.mirrored.npy` with `random_flip`, and `000000007.json`.
class LatentCache {
 public:
  /// Opens the cache of a dataset. Reads all images, and encodes those that the folder lacks.
  /// @param folder created if it does not exist; no other process may build it at the same time
  /// @param dataset gives images `[C, H, W]`, the same in each epoch apart from mirroring; of one size, or of
  /// one
  ///        size in each of its buckets
  /// @param encoder see LatentEncoder; it encodes on its own device
  /// @param options see LatentCacheOptions
  /// @return the cache; shared, since several tasks may read it
  /// @throws ConfigError if the dataset is empty or an option is out of range
  /// @throws TensorError if the images do not fit the autoencoder
  /// @throws FileError if the folder cannot be written, or if another process holds it
  static std::shared_ptr<const LatentCache> build(const std::filesystem::path& folder, const Dataset& dataset,
                                                  const LatentEncoder& encoder,
                                                  const LatentCacheOptions& options = {});

  /// @return number of samples
  int64_t size() const { return size_; }
  /// @return number of images that `build` encoded, mirrored ones included; 0 if all were there
  int64_t encoded_images() const { return encoded_images_; }
  /// @return SHA-256 of the autoencoder, see `LatentEncoder::fingerprint`
  const std::string& fingerprint() const { return fingerprint_; }

  /// Reads the distributions of a batch. May be called from several threads at once.
  /// @param batch `indices` and `images` in host memory, as the dataset gave them
  /// @return on the host
  /// @throws TensorError if the batch has no indices, if an index is out of range, or naming the sample whose
  ///   image is not the one that was encoded
  LatentDistribution find(const Batch& batch) const;

 private:
  struct Contents {
    std::shared_ptr<const LatentFile> file;
    std::vector<uint64_t> hashes;  // [samples * variants]
  };

  LatentCache(std::filesystem::path folder, const LatentEncoder& encoder, const LatentCacheOptions& options,
              int64_t size);
  std::filesystem::path file_path(int64_t number) const;
  std::vector<int64_t> indices_of(int64_t number) const;
  bool is_current(int64_t number, const Dataset& dataset) const;
  void encode_file(int64_t number, const Dataset& dataset, const LatentEncoder& encoder);
  Contents open_file(int64_t number) const;
  void remove_surplus_files(int64_t files) const;
  Tensor read(int64_t index, uint64_t hash) const;

  std::filesystem::path folder_;
  LatentCacheOptions options_;
  std::string fingerprint_;
  int64_t size_ = 0;
  int64_t encoded_images_ = 0;
  bool has_posterior_ = false;
  std::vector<Contents> files_;
};

}  // namespace diffusers

#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <diffusers/core/tensor_map.h>
#include <diffusers/io/safetensors.h>

namespace diffusers {

/// The weights in a model folder as Python `diffusers` and `transformers` lay them out, one file or shards
/// with an index:
///
///     diffusion_pytorch_model.safetensors              diffusion_pytorch_model.fp16.safetensors
///     diffusion_pytorch_model-00001-of-00002.safetensors  and diffusion_pytorch_model.safetensors.index.json
///     diffusion_pytorch_model.fp16-00001-of-00002.safetensors  and
///     diffusion_pytorch_model.safetensors.index.fp16.json
///
/// Opening reads headers and the index; tensors are read one at a time. Where an index exists it decides, as
/// in Python. Every shard must hold exactly the tensors that the index gives it. Files must lie in the
/// folder; a symbolic link is followed only within the folder or, in the cache of the Hugging Face Hub, to
/// its `blobs`.
class WeightsReader {
 public:
  /// @param basename "diffusion_pytorch_model" for models, "model" for text encoders
  /// @param variant such as "fp16"; empty for none
  /// @throws FileError if there are no weights, only pickles, or an inconsistent index
  explicit WeightsReader(const std::string& folder, const std::string& basename = "diffusion_pytorch_model",
                         const std::string& variant = "");

  /// Where the tensors come from: the file, or the index.
  const std::string& path() const { return path_; }
  bool is_sharded() const { return is_sharded_; }
  /// In the order of the data, shard after shard.
  const std::vector<std::string>& names() const { return names_; }
  bool contains(std::string_view name) const;
  const SafetensorsInfo& info(std::string_view name) const;
  /// @param dtype what a floating tensor is converted to; the others keep their dtype
  at::Tensor get(std::string_view name, at::Device device = at::kCPU,
                 std::optional<at::ScalarType> dtype = std::nullopt) const;

 private:
  const SafetensorsFile& file_of(std::string_view name) const;
  void open_shards(const std::string& folder, std::string_view index);

  std::string path_;
  bool is_sharded_ = false;
  std::vector<SafetensorsFile> files_;
  std::vector<std::string> names_;
  std::map<std::string, std::size_t, std::less<>> shard_of_;
};

/// The bytes of a file of a model folder, such as config.json. As for weights, the file must lie in the
/// folder or in the blobs of the Hub's cache.
/// @param name a plain file name
/// @param max_bytes a larger file is refused before it is read
/// @throws FileError
std::string read_model_file(const std::string& folder, std::string_view name,
                            std::size_t max_bytes = std::size_t{16} << 20);

struct LoadWeightsOptions {
  std::string variant = {};
  at::Device device = at::kCPU;
  std::optional<at::ScalarType> dtype = std::nullopt;
};

/// All tensors of a model folder; see WeightsReader.
TensorMap load_weights(const std::string& folder, const std::string& basename = "diffusion_pytorch_model",
                       const LoadWeightsOptions& options = {});

struct SaveWeightsOptions {
  std::string variant = {};
  int64_t max_shard_size = 10'000'000'000;  ///< bytes
};

/// Writes the weights of a model folder with the names, the split and the index of Python `diffusers`, after
/// creating the folder if need be. Shards, indices and single files of an earlier save under the same
/// basename and variant that would now be stale are removed.
void save_weights(const TensorMap& tensors, const std::string& folder,
                  const std::string& basename = "diffusion_pytorch_model",
                  const SaveWeightsOptions& options = {});

}  // namespace diffusers

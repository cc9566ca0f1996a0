#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <diffusers/core/tensor_map.h>
#include <diffusers/io/safetensors.h>

namespace diffusers {

/// Reads the weights of a model folder, with the file names of Python `diffusers` and `transformers`: one
/// file, or shards with an index.
///
///     diffusion_pytorch_model.safetensors              diffusion_pytorch_model.fp16.safetensors
///     diffusion_pytorch_model-00001-of-00002.safetensors  and diffusion_pytorch_model.safetensors.index.json
///     diffusion_pytorch_model.fp16-00001-of-00002.safetensors  and
///     diffusion_pytorch_model.safetensors.index.fp16.json
///
/// The constructor reads the headers and the index; tensors are read one at a time. If there is an index, it
/// is used, as in Python. Each shard must hold exactly the tensors that the index places there. A symbolic
/// link is followed if it leads to a file of the same folder or, in the cache of the Hugging Face Hub, to its
/// `blobs`.
class WeightsReader {
 public:
  /// Opens the weights of a folder and reads their headers.
  /// @param folder model folder
  /// @param basename "diffusion_pytorch_model" for the models of diffusers, "model" for those of transformers
  /// @param variant variant of the files, such as "fp16"; empty for none
  /// @throws FileError if the folder has no safetensors weights or an inconsistent index
  explicit WeightsReader(const std::filesystem::path& folder,
                         const std::string& basename = "diffusion_pytorch_model",
                         const std::string& variant = "");

  /// Returns the path of the weights file, or of the index.
  const std::string& path() const { return path_; }
  /// Returns true if the weights are split into shards.
  bool is_sharded() const { return is_sharded_; }
  /// Returns the names of the tensors in the order of their data, shard after shard.
  const std::vector<std::string>& names() const { return names_; }
  /// Returns true if there is a tensor of this name.
  bool contains(std::string_view name) const;
  /// Returns the header's description of a tensor.
  /// @throws FileError if there is no such tensor
  const SafetensorsInfo& info(std::string_view name) const;
  /// Reads one tensor.
  /// @param name name of the tensor
  /// @param device device of the tensor that is returned
  /// @param dtype dtype of a floating tensor; other tensors keep their dtype. Default: the dtype in the file
  /// @return the tensor
  /// @throws FileError if there is no such tensor, or if its file ends early
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

/// Reads a whole file of a model folder, such as config.json. Symbolic links are followed as by
/// WeightsReader.
/// @param folder model folder
/// @param name plain file name
/// @param max_bytes largest size; a larger file is an error before memory is allocated
/// @return all bytes of the file
/// @throws FileError if the file is missing, too large, outside of the folder or cannot be read
std::string read_model_file(const std::filesystem::path& folder, std::string_view name,
                            std::size_t max_bytes = std::size_t{16} << 20);

/// Options of `load_weights`.
struct LoadWeightsOptions {
  /// Variant of the files, such as "fp16". Empty selects the files without a variant.
  std::string variant = {};
  /// Device of the loaded tensors.
  at::Device device = at::kCPU;
  /// Dtype of the loaded floating tensors. The other tensors keep their dtype. Default: the dtype in the
  /// file.
  std::optional<at::ScalarType> dtype = std::nullopt;
};

/// Loads all tensors of a model folder; see WeightsReader.
/// @param folder model folder
/// @param basename "diffusion_pytorch_model" for the models of diffusers, "model" for those of transformers
/// @param options variant, device and dtype
/// @return the tensors by name, in the order of their data, shard after shard
/// @throws FileError as WeightsReader
TensorMap load_weights(const std::filesystem::path& folder,
                       const std::string& basename = "diffusion_pytorch_model",
                       const LoadWeightsOptions& options = {});

/// Options of `save_weights`.
struct SaveWeightsOptions {
  /// Variant in the names of the files, such as "fp16". Empty writes no variant.
  std::string variant = {};
  /// Largest size of a file in bytes. Larger weights are split into shards. A single tensor is never split.
  int64_t max_shard_size = 10'000'000'000;
};

/// Writes the weights of a model folder with the file names, the split and the index of Python `diffusers`.
/// Weights of an earlier save with the same basename and variant are replaced. The folder keeps the old files
/// until all new files are on the disk.
/// @param tensors the weights by name
/// @param folder model folder, which is created if it is missing
/// @param basename "diffusion_pytorch_model" for the models of diffusers, "model" for those of transformers
/// @param options variant and size of the shards
/// @throws TensorError for a tensor that the format cannot hold; ConfigError if `max_shard_size` is not
///   positive; FileError if a file cannot be written, or if `basename` or `variant` is not a plain name
void save_weights(const TensorMap& tensors, const std::filesystem::path& folder,
                  const std::string& basename = "diffusion_pytorch_model",
                  const SaveWeightsOptions& options = {});

}  // namespace diffusers

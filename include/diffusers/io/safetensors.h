#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <diffusers/core/tensor_map.h>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// Options of `load_safetensors`.
struct LoadSafetensorsOptions {
  /// Device of the loaded tensors.
  at::Device device = at::kCPU;
  /// Dtype of the loaded floating tensors. The other tensors keep their dtype. Default: the dtype in the
  /// file.
  std::optional<at::ScalarType> dtype = std::nullopt;
};

/// Loads all tensors of a safetensors file. The file is read, not memory-mapped: it may be replaced or
/// removed afterwards.
/// @param path path of the file
/// @param options device and dtype
/// @return the tensors by name, in the order of their data in the file
/// @throws FileError naming the file and the tensor if the file cannot be read or violates the format
TensorMap load_safetensors(const std::filesystem::path& path, const LoadSafetensorsOptions& options = {});

/// Writes the same bytes as Python's `safetensors.torch.save_file`. The file is replaced atomically.
/// @param tensors tensors on any device, contiguous or not. Tensors that share memory are each written in
///   full.
/// @param path path of the file
/// @param metadata strings for the header, such as `{{"format", "pt"}}`
/// @throws TensorError for a tensor that the format cannot hold; FileError if the file cannot be written
void save_safetensors(const TensorMap& tensors, const std::filesystem::path& path,
                      const std::map<std::string, std::string>& metadata = {});

/// Description of one tensor in the header of a safetensors file.
struct SafetensorsInfo {
  /// Dtype in the file.
  at::ScalarType dtype = at::kFloat;
  /// Sizes of the dimensions.
  std::vector<int64_t> shape;
  /// Size of the data in bytes.
  uint64_t nbytes = 0;
};

inline namespace internal {
class InputFile;
}  // namespace internal

/// An open safetensors file. Its tensors are read one at a time.
class SafetensorsFile {
 public:
  /// Opens a file, and reads and checks its header.
  /// @param path path of the file
  /// @throws FileError if the file cannot be read or violates the format
  explicit SafetensorsFile(const std::filesystem::path& path);
  /// Takes over an open file. For use inside the library.
  explicit SafetensorsFile(InputFile file);
  /// Moves an open file.
  SafetensorsFile(SafetensorsFile&&) noexcept;
  /// Moves an open file.
  SafetensorsFile& operator=(SafetensorsFile&&) noexcept;
  ~SafetensorsFile();

  /// Returns the path of the file.
  const std::string& path() const;
  /// Returns the names of the tensors, in the order of their data.
  const std::vector<std::string>& names() const;
  /// Returns the metadata strings of the header.
  const std::map<std::string, std::string>& metadata() const;
  /// Returns true if there is a tensor of this name.
  bool contains(std::string_view name) const;
  /// Returns the header's description of a tensor.
  /// @param name name of the tensor
  /// @throws FileError if there is no such tensor
  const SafetensorsInfo& info(std::string_view name) const;
  /// Reads one tensor.
  /// @param name name of the tensor
  /// @param device device of the tensor that is returned
  /// @param dtype dtype of a floating tensor; other tensors keep their dtype. Default: the dtype in the file
  /// @return the tensor
  /// @throws FileError if there is no such tensor, or if the file ends early; Error if `device` cannot hold
  ///   it
  at::Tensor get(std::string_view name, at::Device device = at::kCPU,
                 std::optional<at::ScalarType> dtype = std::nullopt) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace diffusers

#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <diffusers/core/tensor_map.h>

#include <ATen/core/Tensor.h>

namespace diffusers {

struct LoadSafetensorsOptions {
  at::Device device = at::kCPU;
  /// Floating tensors are converted to it; the others keep their dtype.
  std::optional<at::ScalarType> dtype = std::nullopt;
};

/// All tensors of a safetensors file, in the order of its data. The file is read, not mapped: it may be
/// replaced or removed afterwards.
/// @throws FileError naming the file and the tensor, on anything that the format forbids
TensorMap load_safetensors(const std::string& path, const LoadSafetensorsOptions& options = {});

/// Writes what Python's `safetensors.torch.save_file` writes, byte for byte. Tensors may lie on any device
/// and need not be contiguous; tensors that share memory are written each. The file appears complete, or not
/// at all.
/// @throws TensorError for a tensor that the format cannot hold, FileError if writing fails
void save_safetensors(const TensorMap& tensors, const std::string& path,
                      const std::map<std::string, std::string>& metadata = {});

/// What the header of a file says of one tensor.
struct SafetensorsInfo {
  at::ScalarType dtype = at::kFloat;
  std::vector<int64_t> shape;
  uint64_t nbytes = 0;
};

class InputFile;

/// An open safetensors file whose tensors are read one at a time.
class SafetensorsFile {
 public:
  /// Reads and checks the header, and nothing else.
  /// @throws FileError
  explicit SafetensorsFile(const std::string& path);
  explicit SafetensorsFile(InputFile file);
  SafetensorsFile(SafetensorsFile&&) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) noexcept;
  ~SafetensorsFile();

  const std::string& path() const;
  /// In the order of the data.
  const std::vector<std::string>& names() const;
  const std::map<std::string, std::string>& metadata() const;
  bool contains(std::string_view name) const;
  /// @throws FileError if there is no such tensor
  const SafetensorsInfo& info(std::string_view name) const;
  /// Reads one tensor.
  /// @param dtype what a floating tensor is converted to; the others keep their dtype
  at::Tensor get(std::string_view name, at::Device device = at::kCPU,
                 std::optional<at::ScalarType> dtype = std::nullopt) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace diffusers

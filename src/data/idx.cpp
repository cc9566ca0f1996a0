#include <cstring>

#include <diffusers/data/idx.h>
#include <diffusers/io/files.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "data/idx_reader.h"

namespace diffusers {
namespace {

constexpr std::size_t kLargestIdxFile = std::size_t{1} << 36;

at::ScalarType idx_scalar_type(IdxType type) {
  switch (type) {
    case IdxType::kUint8:
      return at::kByte;
    case IdxType::kInt8:
      return at::kChar;
    case IdxType::kInt16:
      return at::kShort;
    case IdxType::kInt32:
      return at::kInt;
    case IdxType::kFloat32:
      return at::kFloat;
    case IdxType::kFloat64:
      return at::kDouble;
  }
  fail<FileError>("unknown IDX type {}", static_cast<int>(type));
}

}  // namespace

at::Tensor read_idx(const std::filesystem::path& path) {
  const IdxData data = parse_idx(read_text_file(path.string(), kLargestIdxFile), path.string());
  at::Tensor tensor = at::empty(data.shape, at::TensorOptions().dtype(idx_scalar_type(data.type)));
  if (!data.bytes.empty()) std::memcpy(tensor.data_ptr(), data.bytes.data(), data.bytes.size());
  return tensor;
}

}  // namespace diffusers

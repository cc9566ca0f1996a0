#pragma once

// Reads IDX files, raw or gzip-compressed, as plain bytes. It does not use LibTorch, so that a fuzz target
// can link it alone.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace diffusers {
inline namespace internal {

/// Type of the elements: the third byte of the magic number.
enum class IdxType : uint8_t {
  kUint8 = 0x08,
  kInt8 = 0x09,
  kInt16 = 0x0B,
  kInt32 = 0x0C,
  kFloat32 = 0x0D,
  kFloat64 = 0x0E
};

struct IdxData {
  IdxType type = IdxType::kUint8;
  std::vector<int64_t> shape;
  std::string bytes;  ///< elements in the byte order of this machine
};

/// @throws FileError naming `where`
IdxData parse_idx(std::string_view file, std::string_view where);

}  // namespace internal
}  // namespace diffusers

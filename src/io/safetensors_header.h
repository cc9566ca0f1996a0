#pragma once

// Parses and checks the header of a safetensors file. It does not use LibTorch, so that a fuzz target can
// link it alone.

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace diffusers {
inline namespace internal {

struct SafetensorsDtype {
  std::string_view name;
  unsigned bits;
};

/// The dtypes in the order of the reference implementation's enumeration. It sorts the tensors of a file by
/// this order, the last dtypes first.
inline constexpr std::array<SafetensorsDtype, 22> kSafetensorsDtypes{{
    {"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"U8", 8},          {"I8", 8},
    {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
    {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},        {"U32", 32},        {"F32", 32},
    {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64},
}};

/// Size of the length field in front of the header.
inline constexpr uint64_t kSafetensorsPrefix = 8;
/// Largest header that the reference implementation accepts, in bytes.
inline constexpr uint64_t kSafetensorsMaxHeader = 100'000'000;

struct SafetensorsEntry {
  std::string name;
  std::size_t dtype = 0;  ///< position in kSafetensorsDtypes
  std::vector<int64_t> shape;
  uint64_t begin = 0;  ///< first byte, counted from the end of the header
  uint64_t end = 0;
};

struct SafetensorsHeader {
  std::map<std::string, std::string> metadata;
  std::vector<SafetensorsEntry> entries;  ///< in the order of the data
};

/// Returns the length of the header that the first eight bytes declare.
/// @throws FileError if the length exceeds the file or kSafetensorsMaxHeader
uint64_t safetensors_header_size(const unsigned char (&prefix)[kSafetensorsPrefix], uint64_t file_size,
                                 std::string_view where);

/// @param text the header
/// @param data_size number of bytes after the header; the tensors must cover them exactly
/// @throws FileError naming `where` and the tensor
SafetensorsHeader parse_safetensors_header(std::string_view text, uint64_t data_size, std::string_view where);

}  // namespace internal
}  // namespace diffusers

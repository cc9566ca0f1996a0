#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace diffusers {
inline namespace internal {

/// SHA-256 (FIPS 180-4). The library has its own implementation, so that programs need no cryptographic
/// library.
class Sha256 {
 public:
  /// Adds bytes to the message.
  void update(std::string_view bytes);
  /// Returns the digest as 64 hexadecimal digits. The object must not be used afterwards.
  std::string hex_digest();

 private:
  void compress(const unsigned char* block);

  std::array<uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<unsigned char, 64> block_{};
  std::size_t filled_ = 0;
  uint64_t length_ = 0;
};

}  // namespace internal
}  // namespace diffusers

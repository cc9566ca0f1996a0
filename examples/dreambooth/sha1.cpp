#include "sha1.h"

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdio>

namespace {

constexpr std::size_t kBlock = 64;

/// Adds a block of 64 bytes to the digest.
void add_block(std::array<uint32_t, 5>& digest, const char* bytes) {
  std::array<uint32_t, 80> words{};
  for (std::size_t i = 0; i < 16; ++i)
    for (std::size_t byte = 0; byte < 4; ++byte)
      words[i] = words[i] << 8 | static_cast<uint8_t>(bytes[4 * i + byte]);
  for (std::size_t i = 16; i < 80; ++i)
    words[i] = std::rotl(words[i - 3] ^ words[i - 8] ^ words[i - 14] ^ words[i - 16], 1);
  auto [a, b, c, d, e] = digest;
  for (std::size_t i = 0; i < 80; ++i) {
    const uint32_t mixed = i < 20   ? ((b & c) | (~b & d)) + 0x5a827999U
                           : i < 40 ? (b ^ c ^ d) + 0x6ed9eba1U
                           : i < 60 ? ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdcU
                                    : (b ^ c ^ d) + 0xca62c1d6U;
    const uint32_t next = std::rotl(a, 5) + mixed + e + words[i];
    e = d;
    d = c;
    c = std::rotl(b, 30);
    b = a;
    a = next;
  }
  digest = {digest[0] + a, digest[1] + b, digest[2] + c, digest[3] + d, digest[4] + e};
}

}  // namespace

std::string sha1_hex(std::string_view bytes) {
  std::array<uint32_t, 5> digest{0x67452301U, 0xefcdab89U, 0x98badcfeU, 0x10325476U, 0xc3d2e1f0U};
  const uint64_t bits = uint64_t{bytes.size()} * 8;
  while (bytes.size() >= kBlock) {
    add_block(digest, bytes.data());
    bytes.remove_prefix(kBlock);
  }
  // A bit 1, zeros, and the number of bits.
  std::string rest(bytes);
  rest += '\x80';
  rest.resize(rest.size() <= kBlock - 8 ? kBlock - 8 : 2 * kBlock - 8, '\0');
  for (int shift = 56; shift >= 0; shift -= 8) rest += static_cast<char>(bits >> shift & 0xff);
  for (std::size_t begin = 0; begin < rest.size(); begin += kBlock) add_block(digest, rest.data() + begin);
  std::string text;
  for (const uint32_t word : digest) {
    std::array<char, 9> digits{};
    std::snprintf(digits.data(), digits.size(), "%08x", word);
    text += digits.data();
  }
  return text;
}

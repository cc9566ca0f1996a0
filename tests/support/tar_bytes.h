#pragma once

// Builds tar archives for tests, byte by byte, so that they can also be wrong.

#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

namespace diffusers::test {

/// A member of an archive. The header says what the fields say, whatever the data is.
struct TarEntry {
  std::string name;
  std::string data = {};
  char type = '0';        ///< '0' file, '1' hard link, '2' symbolic link, '3' device, '5' folder, 'S' sparse
  std::string link = {};  ///< target of a link
  std::uint64_t announced = ~std::uint64_t{0};  ///< size in the header; the default is that of the data
};

/// Returns the 512 bytes of a ustar header.
inline std::string tar_header(const TarEntry& entry) {
  std::string header(512, '\0');
  const auto put = [&](std::size_t at, std::string_view text) { header.replace(at, text.size(), text); };
  const auto octal = [&](std::size_t at, std::size_t digits, std::uint64_t value) {
    std::string text(digits, '0');
    for (std::size_t i = digits; i-- > 0; value /= 8) text[i] = static_cast<char>('0' + value % 8);
    put(at, text);
  };
  put(0, std::string_view(entry.name).substr(0, 100));
  octal(100, 7, 0644);
  octal(108, 7, 0);
  octal(116, 7, 0);
  octal(124, 11, entry.announced == ~std::uint64_t{0} ? entry.data.size() : entry.announced);
  octal(136, 11, 0);
  put(148, "        ");
  header[156] = entry.type;
  put(157, entry.link);
  put(257, std::string_view("ustar\0"
                            "00",
                            8));
  std::uint64_t sum = 0;
  for (const char c : header) sum += static_cast<unsigned char>(c);
  octal(148, 6, sum);
  header[154] = '\0';
  return header;
}

/// Returns a member: its header and its data, filled to blocks of 512 bytes.
inline std::string tar_member(const TarEntry& entry) {
  std::string bytes = tar_header(entry) + entry.data;
  bytes.resize((bytes.size() + 511) / 512 * 512);
  return bytes;
}

/// Returns a complete archive.
template <class Entries = std::initializer_list<TarEntry>>
std::string tar_archive(const Entries& entries) {
  std::string bytes;
  for (const TarEntry& entry : entries) bytes += tar_member(entry);
  return bytes + std::string(1024, '\0');
}

}  // namespace diffusers::test

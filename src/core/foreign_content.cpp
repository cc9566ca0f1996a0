#include "core/foreign_content.h"

#include <algorithm>
#include <array>

#include "core/require.h"

namespace diffusers {
inline namespace internal {
namespace {

struct KnownStart {
  std::string_view bytes;
  std::string_view meaning;
};

constexpr std::string_view kPage =
    "this is a web page, not the file itself: the download gave an error or a login page; download the file "
    "again";

/// Beginnings of HTML and XML pages, in lower case.
constexpr std::array<KnownStart, 5> kPages{
    {{"<!doctype", kPage}, {"<html", kPage}, {"<head", kPage}, {"<!--", kPage}, {"<?xml", kPage}}};

constexpr std::array<KnownStart, 6> kBinaries{
    {{"\x1f\x8b\x08", "this is a gzip archive; unpack it with gunzip"},
     {"BZh", "this is a bzip2 archive; unpack it with bunzip2"},
     {"\xfd"
      "7zXZ",
      "this is an xz archive; unpack it with unxz"},
     {"\x28\xb5\x2f\xfd", "this is a zstd archive; unpack it with unzstd"},
     {"GGUF", "this is a GGUF file, which is not read; expected safetensors"},
     {"\x89HDF", "this is an HDF5 file, which is not read; expected safetensors"}}};

bool starts_with_any_case(std::string_view text, std::string_view lower) {
  const auto to_lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; };
  return text.size() >= lower.size() && std::equal(lower.begin(), lower.end(), text.begin(),
                                                   [&](char a, char b) { return a == to_lower(b); });
}

/// Returns the number of the first line that begins with `mark`, from 1; 0 if there is none.
std::size_t line_with(std::string_view text, std::string_view mark) {
  std::size_t number = 1;
  for (std::size_t begin = 0; begin < text.size(); ++number) {
    if (text.substr(begin).starts_with(mark)) return number;
    const auto end = text.find('\n', begin);
    if (end == std::string_view::npos) return 0;
    begin = end + 1;
  }
  return 0;
}

bool is_pickle(std::string_view bytes) {
  // A pickle of protocol 2 or later begins with "\x80" and the protocol's number. Protocols 0 and 1 cannot be
  // recognised. A safetensors file can begin with the same two bytes, but the upper bytes of its length are
  // zero.
  const bool has_mark = bytes.size() >= 3 && bytes[0] == '\x80' && bytes[1] >= 2 && bytes[1] <= 5;
  return has_mark && bytes.substr(3, 5) != std::string_view("\0\0\0\0\0", 5);
}

}  // namespace

std::optional<std::string> describe_foreign_content(std::string_view bytes) {
  if (bytes.empty()) return "the file is empty; copy or download it again";
  if (bytes.starts_with("version https://git-lfs"))
    return "this is a Git LFS pointer, not the file itself; fetch the file with `git lfs pull`";
  if (bytes.starts_with("PK\x03\x04"))
    return fmt::format("this is a zip archive, as torch.save writes it; {}", kPickleAdvice);
  if (is_pickle(bytes)) return fmt::format("this is a pickle; {}", kPickleAdvice);
  for (const auto& [start, meaning] : kBinaries)
    if (bytes.starts_with(start)) return std::string(meaning);

  std::string_view text = bytes;
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  text.remove_prefix(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
  for (const auto& [start, meaning] : kPages)
    if (starts_with_any_case(text, start)) return std::string(meaning);
  const std::size_t ours = line_with(bytes, "<<<<<<<");
  if (ours != 0 && line_with(bytes, "=======") > ours && line_with(bytes, ">>>>>>>") > ours)
    return fmt::format(
        "the file holds the markers of a merge conflict, the first in line {}; resolve the conflict", ours);
  return std::nullopt;
}

}  // namespace internal
}  // namespace diffusers

#pragma once

#include <string>
#include <string_view>

namespace diffusers {
inline namespace internal {

/// Escapes text for XML and HTML, also in attributes. Control characters, which are not allowed there, become
/// spaces.
inline std::string xml_text(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
    }
  }
  return out;
}

}  // namespace internal
}  // namespace diffusers

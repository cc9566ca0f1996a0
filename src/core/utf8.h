#pragma once

#include <cstddef>
#include <string_view>

namespace diffusers {
inline namespace internal {

/// The first code point of some bytes, read as UTF-8.
struct Utf8Prefix {
  std::size_t size = 0;      ///< bytes of the code point, or of an incomplete one
  bool is_complete = false;  ///< false if the bytes are not a code point
};

/// Reads the first code point of a text that is not empty. Overlong forms, surrogates and values beyond
/// U+10FFFF are invalid. The size of an invalid sequence follows Unicode 3.9, substitution of maximal
/// subparts by U+FFFD.
Utf8Prefix utf8_prefix(std::string_view bytes);

/// Returns true if the whole text is UTF-8.
bool is_utf8(std::string_view text);

}  // namespace internal
}  // namespace diffusers

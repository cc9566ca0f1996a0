#pragma once

#include <cstddef>
#include <string_view>

namespace diffusers {
inline namespace internal {

/// The front of some bytes, read as UTF-8.
struct Utf8Prefix {
  std::size_t size = 0;      ///< bytes of the code point, or of the beginning of one that breaks off
  bool is_complete = false;  ///< false where the bytes are no code point
};

/// Reads one code point of a text that is not empty. Overlong forms, surrogates and values beyond U+10FFFF
/// are none. A broken one is measured as Unicode 3.9 says for the substitution of maximal subparts by U+FFFD.
Utf8Prefix utf8_prefix(std::string_view bytes);

/// Returns true if the whole text is UTF-8.
bool is_utf8(std::string_view text);

}  // namespace internal
}  // namespace diffusers

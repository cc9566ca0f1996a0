#pragma once

// The parts of Unicode that CLIP's tokenizer needs. Neither this header nor its includes use LibTorch.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace diffusers {
inline namespace internal {
namespace text {

/// Decodes a UTF-8 text to code points.
/// @throws TextError with the position of the first byte that is not UTF-8 (surrogates are invalid)
std::u32string decode_utf8(std::string_view text);
void append_utf8(std::string& text, char32_t code_point);
std::string encode_utf8(std::u32string_view text);
/// Implements Python's `bytes.decode("utf-8", errors="replace")`: each maximal subpart of an invalid sequence
/// becomes U+FFFD.
std::string replace_invalid_utf8(std::string_view bytes);

/// Converts to normalization form C (Unicode Standard Annex 15).
std::u32string to_nfc(const std::u32string& text);
/// Appends the lower case of one code point, independent of its neighbours (no final sigma).
void append_lower_case(std::u32string& text, char32_t code_point);

/// The classes `\p{L}`, `\p{N}`, `\s` and `\w` of regular expressions.
bool is_letter(char32_t code_point);
bool is_number(char32_t code_point);
bool is_space(char32_t code_point);
bool is_word_character(char32_t code_point);

}  // namespace text
}  // namespace internal
}  // namespace diffusers

#pragma once

// The part of Unicode that CLIP's tokenizer needs. No LibTorch here, nor in what it includes.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace diffusers {
inline namespace internal {
namespace text {

/// The code points of a UTF-8 text.
/// @throws TextError with the position of the first byte that is no UTF-8 (surrogates are none)
std::u32string decode_utf8(std::string_view text);
void append_utf8(std::string& text, char32_t code_point);
std::string encode_utf8(std::u32string_view text);
/// Python's `bytes.decode("utf-8", errors="replace")`: each maximal part of a broken sequence becomes U+FFFD.
std::string replace_invalid_utf8(std::string_view bytes);

/// Normalization form C (Unicode Standard Annex 15).
std::u32string to_nfc(const std::u32string& text);
/// Lower case of one code point at a time, without regard to its neighbours (no final sigma).
void append_lower_case(std::u32string& text, char32_t code_point);

/// `\p{L}`, `\p{N}`, `\s` and `\w` of regular expressions.
bool is_letter(char32_t code_point);
bool is_number(char32_t code_point);
bool is_space(char32_t code_point);
bool is_word_character(char32_t code_point);

}  // namespace text
}  // namespace internal
}  // namespace diffusers

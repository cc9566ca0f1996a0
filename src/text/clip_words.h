#pragma once

// From a prompt to the pieces that byte-pair encoding works on. No LibTorch here.

#include <string>
#include <string_view>
#include <vector>

namespace diffusers {
inline namespace internal {
namespace text {

/// NFC, then each run of white space to one space, then lower case.
/// @throws TextError if the text is not UTF-8
std::string normalize_for_clip(std::string_view text);

/// The matches of `<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+`,
/// each of the first two cut at its bars, as the byte-level expression of GPT-2 cuts them afterwards. Views
/// into `normalized`, which must be UTF-8.
std::vector<std::string_view> split_into_words(std::string_view normalized);

}  // namespace text
}  // namespace internal
}  // namespace diffusers

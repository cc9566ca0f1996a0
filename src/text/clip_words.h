#pragma once

// Splits a prompt into the words that byte-pair encoding works on. This header does not use LibTorch.

#include <string>
#include <string_view>
#include <vector>

namespace diffusers {
inline namespace internal {
namespace text {

/// Normalises a text: NFC, then each run of white space becomes one space, then lower case.
/// @throws TextError if the text is not UTF-8
std::string normalize_for_clip(std::string_view text);

/// Returns the matches of
/// `<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+`. The first two
/// are also split at their bars, as by GPT-2's byte-level expression. The results are views into
/// `normalized`, which must be UTF-8.
std::vector<std::string_view> split_into_words(std::string_view normalized);

}  // namespace text
}  // namespace internal
}  // namespace diffusers

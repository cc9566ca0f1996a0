#pragma once

// Recognises files whose content does not match their name: Git LFS pointers, error pages and pickles.

#include <optional>
#include <string>
#include <string_view>

namespace diffusers {
inline namespace internal {

/// Advice on converting a pickle to safetensors, for error messages.
inline constexpr std::string_view kPickleAdvice =
    "a Python pickle can run code and is not read; convert it to safetensors, in Python by "
    "from_pretrained(...) and save_pretrained(..., safe_serialization=True)";

/// Describes bytes that are known not to be a model file, a config or an image. Call it only after the parser
/// has failed, because the first bytes of a valid safetensors file may look like a pickle.
/// @param bytes the file, or its first bytes
/// @return the description and advice, such as "this is a Git LFS pointer, not the file itself; run
///   `git lfs pull`"; nullopt if the content is not recognised
std::optional<std::string> describe_foreign_content(std::string_view bytes);

}  // namespace internal
}  // namespace diffusers

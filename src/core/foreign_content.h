#pragma once

// What commonly stands in a file instead of what its name promises: a Git LFS pointer, an error page, a
// pickle.

#include <optional>
#include <string>
#include <string_view>

namespace diffusers {
inline namespace internal {

/// How to turn a pickle into a file that is read.
inline constexpr std::string_view kPickleAdvice =
    "a Python pickle can run code and is not read; convert it to safetensors, in Python by "
    "from_pretrained(...) and save_pretrained(..., safe_serialization=True)";

/// Says what the bytes are, and what to do, if they are known not to be a model file, a config or a picture.
/// For bytes that no parser takes: the first bytes of a sound safetensors file may look like a pickle.
/// @param bytes the file, or its first bytes
/// @return such as "this is a Git LFS pointer, not the file itself; run `git lfs pull`"; nullopt if unknown
std::optional<std::string> describe_foreign_content(std::string_view bytes);

}  // namespace internal
}  // namespace diffusers

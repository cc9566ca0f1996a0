#pragma once

#include <string_view>

namespace diffusers {
inline namespace internal {

/// The release of Python diffusers whose files are written: `_diffusers_version` in every config and index.
inline constexpr std::string_view kDiffusersVersion = "0.42.1";

}  // namespace internal
}  // namespace diffusers

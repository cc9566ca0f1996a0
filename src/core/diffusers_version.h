#pragma once

#include <string_view>

namespace diffusers {
inline namespace internal {

/// Release of Python diffusers whose file formats this library writes. It is the `_diffusers_version` of
/// every config and index.
inline constexpr std::string_view kDiffusersVersion = "0.42.1";

}  // namespace internal
}  // namespace diffusers

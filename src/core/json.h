#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace diffusers {
inline namespace internal {

using Json = nlohmann::json;

/// Largest size of a config or index file in bytes.
inline constexpr std::size_t kMaxJsonBytes = std::size_t{16} << 20;
/// Deepest nesting of arrays and objects.
inline constexpr int kMaxJsonDepth = 128;
/// Largest number of values. A text with more values is an attempt to exhaust memory, not a config or index.
inline constexpr std::size_t kMaxJsonValues = 500'000;

/// Parses JSON as Python writes it, including NaN, Infinity and -Infinity.
/// @param where path or name of the text, for error messages
/// @throws FileError naming `where` if the text is not JSON, has duplicate keys, NUL bytes or a byte-order
///   mark, or exceeds kMaxJsonBytes, kMaxJsonDepth or kMaxJsonValues
Json parse_json(std::string_view text, std::string_view where);

/// Returns the text of Python's `json.dumps(value, indent=2, sort_keys=True) + "\n"`.
std::string dump_json(const Json& value);

/// Formats a value for error messages: on one line, in ASCII, shortened.
std::string json_excerpt(const Json& value);
/// Formats the message of an exception of the JSON library, in ASCII, shortened.
std::string json_reason(const Json::exception& error);

}  // namespace internal
}  // namespace diffusers

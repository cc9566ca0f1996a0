#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace diffusers {
inline namespace internal {

using Json = nlohmann::json;

/// Config and index files may not be larger than this.
inline constexpr std::size_t kMaxJsonBytes = std::size_t{16} << 20;
/// Arrays and objects may not be nested deeper than this.
inline constexpr int kMaxJsonDepth = 128;
/// More values than this are no config and no index, but an attempt to fill the memory.
inline constexpr std::size_t kMaxJsonValues = 500'000;

/// Parses JSON as Python writes it (NaN, Infinity and -Infinity included) and refuses what hides mistakes or
/// attacks: duplicate keys, nesting beyond kMaxJsonDepth, NUL bytes, a byte-order mark, more than
/// kMaxJsonBytes or kMaxJsonValues.
/// @param where what the text is (a path), for messages
/// @throws FileError naming `where`
Json parse_json(std::string_view text, std::string_view where);

/// Text as Python's `json.dumps(value, indent=2, sort_keys=True) + "\n"` gives.
std::string dump_json(const Json& value);

/// A value as error messages show it: on one line, in ASCII, shortened.
std::string json_excerpt(const Json& value);
/// What the JSON library says of a text that it refuses, in ASCII, shortened.
std::string json_reason(const Json::exception& error);

}  // namespace internal
}  // namespace diffusers

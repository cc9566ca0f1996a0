#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace diffusers {

using Json = nlohmann::json;

/// Config and index files may not be larger than this.
inline constexpr std::size_t kMaxJsonBytes = std::size_t{16} << 20;
/// Arrays and objects may not be nested deeper than this.
inline constexpr int kMaxJsonDepth = 128;

/// Parses JSON as Python writes it (NaN, Infinity and -Infinity included) and refuses what hides mistakes or
/// attacks: duplicate keys, nesting beyond kMaxJsonDepth, NUL bytes, a byte-order mark, more than
/// kMaxJsonBytes.
/// @param where what the text is (a path), for messages
/// @throws FileError naming `where`
Json parse_json(std::string_view text, std::string_view where);

/// Text as Python's `json.dumps(value, indent=2, sort_keys=True) + "\n"` gives.
std::string dump_json(const Json& value);

}  // namespace diffusers

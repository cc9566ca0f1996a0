#pragma once

// JSON access to config files, for programs that read arbitrary keys. A program that knows the class of a
// config uses its struct instead.

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

using Json = nlohmann::json;

/// Parses JSON as Python writes it. NaN, Infinity and -Infinity become strings that `write_json` turns back.
/// @param where path of the file, for error messages
/// @throws diffusers::FileError if the text is not JSON, or if a key occurs twice
Json parse_json(const std::string& text, const std::string& where);

/// Returns the text of a value, which `parse_json` reads.
std::string write_json(const Json& value);

/// Formats a value on one line, shortened.
std::string json_excerpt(const Json& value);

/// Returns the number of a key, including NaN and infinity; nullopt if the key is missing or has another
/// type.
std::optional<double> json_number(const Json& value);

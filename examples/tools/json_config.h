#pragma once

// JSON of config files, for programs that look at any key. Programs that know the class of a config use its
// struct instead.

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

using Json = nlohmann::json;

/// Parses JSON as Python writes it. NaN, Infinity and -Infinity become strings that `write_json` turns back.
/// @param where the path of the file, for messages
/// @throws diffusers::FileError if the text is not JSON, or if a key stands twice
Json parse_json(const std::string& text, const std::string& where);

/// The text of a value; `parse_json` reads it.
std::string write_json(const Json& value);

/// A value on one line, shortened.
std::string json_excerpt(const Json& value);

/// The number that a key has, NaN and infinite ones included; none without the key, or for another type.
std::optional<double> json_number(const Json& value);

#include "json_config.h"

#include <array>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <vector>

#include <diffusers/core/error.h>

using namespace diffusers;

namespace {

constexpr std::array<std::string_view, 3> kNonFinite{"-Infinity", "Infinity", "NaN"};
/// Prefix of the strings that hold a number. No config file contains it.
constexpr std::string_view kNumberMark = "@number:";
constexpr std::size_t kLongestExcerpt = 160;

/// Writes bare NaN, Infinity and -Infinity as strings with a mark.
std::string quote_non_finite(std::string_view text) {
  std::string quoted;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (!in_string) {
      const std::string_view rest = text.substr(i);
      bool is_number = false;
      for (const std::string_view word : kNonFinite) {
        if (!rest.starts_with(word)) continue;
        quoted += "\"" + std::string(kNumberMark) + std::string(word) + "\"";
        i += word.size() - 1;
        is_number = true;
        break;
      }
      if (is_number) continue;
    }
    quoted += text[i];
    if (in_string && text[i] == '\\' && i + 1 < text.size()) {
      quoted += text[++i];
    } else if (text[i] == '"') {
      in_string = !in_string;
    }
  }
  return quoted;
}

/// Turns the strings of `quote_non_finite` back into numbers.
std::string unquote_non_finite(std::string text) {
  for (const std::string_view word : kNonFinite) {
    const std::string quoted = "\"" + std::string(kNumberMark) + std::string(word) + "\"";
    for (std::size_t at = text.find(quoted); at != std::string::npos; at = text.find(quoted, at))
      text.replace(at, quoted.size(), word);
  }
  return text;
}

}  // namespace

Json parse_json(const std::string& text, const std::string& where) {
  std::vector<std::set<std::string>> keys;
  const auto check_keys = [&](int, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second)
      throw FileError(where + ": JSON key " + parsed.dump() + " occurs twice");
    return true;
  };
  try {
    return Json::parse(quote_non_finite(text), check_keys);
  } catch (const Json::exception& error) {
    throw FileError(where + ": not valid JSON: " + error.what());
  }
}

std::string write_json(const Json& value) {
  return unquote_non_finite(value.dump(2, ' ', false, Json::error_handler_t::replace));
}

std::string json_excerpt(const Json& value) {
  std::string text = unquote_non_finite(value.dump(-1, ' ', true, Json::error_handler_t::replace));
  if (text.size() > kLongestExcerpt) text = text.substr(0, kLongestExcerpt) + "...";
  return text;
}

std::optional<double> json_number(const Json& value) {
  if (value.is_number()) return value.get<double>();
  if (!value.is_string()) return std::nullopt;
  const auto text = value.get<std::string>();
  if (!text.starts_with(kNumberMark)) return std::nullopt;
  return std::strtod(text.c_str() + kNumberMark.size(), nullptr);
}

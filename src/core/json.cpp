#include "core/json.h"

#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/format.h"

namespace diffusers {
namespace {

// Stand-ins for the three numbers that Python writes and JSON lacks. A real string never holds them, because
// raw control characters are refused inside JSON strings and the private prefix is checked for below.
constexpr std::string_view kNaN = "\x7f:NaN", kInfinity = "\x7f:Infinity", kMinusInfinity = "\x7f:-Infinity";

/// Quotes bare NaN, Infinity and -Infinity, so that a strict parser takes the text.
std::string quote_non_finite(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      out += c;
      if (c == '\\' && i + 1 < text.size()) {
        out += text[++i];
      } else if (c == '"') {
        in_string = false;
      }
      continue;
    }
    auto take = [&](std::string_view word, std::string_view stand_in) {
      if (text.substr(i, word.size()) != word) return false;
      out.append("\"").append(stand_in).append("\"");
      i += word.size() - 1;
      return true;
    };
    if (take("NaN", kNaN) || take("Infinity", kInfinity) || take("-Infinity", kMinusInfinity)) continue;
    in_string = c == '"';
    out += c;
  }
  return out;
}

/// Depth-first replacement of the stand-ins; the depth is bounded by the parser.
void restore_non_finite(Json& value) {
  if (value.is_structured()) {
    for (auto& element : value) restore_non_finite(element);
  } else if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    if (text == kNaN) {
      value = std::numeric_limits<double>::quiet_NaN();
    } else if (text == kInfinity) {
      value = std::numeric_limits<double>::infinity();
    } else if (text == kMinusInfinity) {
      value = -std::numeric_limits<double>::infinity();
    }
  }
}

void hide_non_finite(Json& value) {
  if (value.is_structured()) {
    for (auto& element : value) hide_non_finite(element);
  } else if (value.is_number_float() && !std::isfinite(value.get<double>())) {
    const double number = value.get<double>();
    value = std::isnan(number) ? kNaN : number > 0 ? kInfinity : kMinusInfinity;
  }
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
}

}  // namespace

Json parse_json(std::string_view text, std::string_view where) {
  require<FileError>(text.size() <= kMaxJsonBytes, "{}: {} bytes of JSON, at most {} are accepted", where,
                     text.size(), kMaxJsonBytes);
  require<FileError>(text.find('\0') == std::string_view::npos, "{}: JSON holds a NUL byte", where);
  require<FileError>(!text.starts_with("\xef\xbb\xbf"), "{}: JSON starts with a byte-order mark", where);
  require<FileError>(text.find('\x7f') == std::string_view::npos, "{}: JSON holds a DEL byte", where);

  std::vector<std::set<std::string>> keys;
  auto guard = [&](int depth, Json::parse_event_t event, Json& parsed) {
    using Event = Json::parse_event_t;
    if (event == Event::object_start || event == Event::array_start) {
      require<FileError>(depth < kMaxJsonDepth, "{}: JSON is nested deeper than {} levels", where,
                         kMaxJsonDepth);
      if (event == Event::object_start) keys.emplace_back();
    } else if (event == Event::object_end) {
      keys.pop_back();
    } else if (event == Event::key) {
      require<FileError>(keys.back().insert(parsed.get<std::string>()).second,
                         "{}: JSON key \"{}\" stands twice", where, parsed.get<std::string>());
    }
    return true;
  };
  try {
    Json value = Json::parse(quote_non_finite(text), guard);
    restore_non_finite(value);
    return value;
  } catch (const Json::exception& error) {
    fail<FileError>("{}: not valid JSON: {}", where, error.what());
  }
}

std::string dump_json(const Json& value) {
  Json copy = value;
  hide_non_finite(copy);
  std::string text = copy.dump(2, ' ', true);
  // The stand-ins start with DEL, which nlohmann escapes.
  for (const std::string_view stand_in : {kNaN, kInfinity, kMinusInfinity})
    replace_all(text, "\"\\u007f" + std::string(stand_in.substr(1)) + "\"", stand_in.substr(2));
  return text + "\n";
}

}  // namespace diffusers

#include "core/json.h"

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "core/foreign_content.h"
#include "core/require.h"

namespace diffusers {
inline namespace internal {
namespace {

constexpr std::size_t kLongestExcerpt = 160;
constexpr std::size_t kLongestReason = 300;

/// Throws a FileError that describes text that is not JSON, if its kind is recognised.
void refuse_foreign(std::string_view text, std::string_view where) {
  if (const auto meaning = describe_foreign_content(text))
    fail<FileError>("{}: not valid JSON: {}", where, *meaning);
}

/// JSON text in which bare NaN, Infinity and -Infinity are replaced by strings, and the numbers by the index
/// of their string.
struct QuotedText {
  std::string text;
  std::vector<std::pair<std::size_t, double>> numbers;
};

/// Quotes bare NaN, Infinity and -Infinity, so that a strict parser accepts the text.
QuotedText quote_non_finite(std::string_view text) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  QuotedText out;
  out.text.reserve(text.size() + 64);
  std::size_t strings = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      out.text += c;
      if (c == '\\' && i + 1 < text.size()) {
        out.text += text[++i];
      } else if (c == '"') {
        in_string = false;
      }
      continue;
    }
    auto take = [&](std::string_view word, double number) {
      if (text.substr(i, word.size()) != word) return false;
      out.text += "\"\"";
      out.numbers.emplace_back(strings++, number);
      i += word.size() - 1;
      return true;
    };
    if (c == 'N' && take("NaN", std::numeric_limits<double>::quiet_NaN())) continue;
    if (c == 'I' && take("Infinity", kInf)) continue;
    if (c == '-' && take("-Infinity", -kInf)) continue;
    in_string = c == '"';
    strings += in_string ? 1 : 0;
    out.text += c;
  }
  return out;
}

/// Builds a value from the events of the parser and checks the limits of parse_json().
class JsonBuilder {
 public:
  JsonBuilder(Json& root, const QuotedText& quoted, std::string_view text, std::string_view where)
      : root_(root), numbers_(quoted.numbers), text_(text), where_(where) {}

  bool null() { return add(nullptr); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(Json::number_integer_t value) { return add(value); }
  bool number_unsigned(Json::number_unsigned_t value) { return add(value); }
  bool number_float(Json::number_float_t value, const std::string&) { return add(value); }
  bool binary(Json::binary_t&) { return false; }  // does not occur in text
  bool string(std::string& value) {
    if (const double* number = stand_in()) return add(*number);
    return add(std::move(value));
  }
  bool key(std::string& name) {
    require<FileError>(stand_in() == nullptr, "{}: not valid JSON: a number for a key", where_);
    auto& members = open_.back()->get_ref<Json::object_t&>();
    const auto [place, is_new] = members.try_emplace(std::move(name));
    require<FileError>(is_new, "{}: JSON key {} occurs twice", where_, json_excerpt(place->first));
    member_ = &place->second;
    return true;
  }
  bool start_object(std::size_t) { return open(Json::object()); }
  bool start_array(std::size_t) { return open(Json::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool parse_error(std::size_t, const std::string&, const Json::exception& error) {
    refuse_foreign(text_, where_);
    fail<FileError>("{}: not valid JSON: {}", where_, json_reason(error));
  }

 private:
  const double* stand_in() {
    const std::size_t place = strings_++;
    if (next_number_ == numbers_.size() || numbers_[next_number_].first != place) return nullptr;
    return &numbers_[next_number_++].second;
  }
  bool add(Json value) {
    require<FileError>(++values_ <= kMaxJsonValues, "{}: more than {} values of JSON", where_,
                       kMaxJsonValues);
    if (open_.empty()) {
      last_ = &root_;
    } else if (open_.back()->is_array()) {
      last_ = &open_.back()->get_ref<Json::array_t&>().emplace_back();
    } else {
      last_ = member_;
    }
    *last_ = std::move(value);
    return true;
  }
  bool open(Json value) {
    require<FileError>(open_.size() < static_cast<std::size_t>(kMaxJsonDepth),
                       "{}: JSON is nested deeper than {} levels", where_, kMaxJsonDepth);
    add(std::move(value));
    open_.push_back(last_);
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  Json& root_;
  const std::vector<std::pair<std::size_t, double>>& numbers_;
  std::string_view text_;
  std::string_view where_;
  std::vector<Json*> open_;  // a container does not move while it is filled
  Json* member_ = nullptr;
  Json* last_ = nullptr;
  std::size_t values_ = 0;
  std::size_t strings_ = 0;
  std::size_t next_number_ = 0;
};

void dump_value(const Json& value, const std::string& line, std::string& out) {
  if (value.is_structured() && !value.empty()) {
    const std::string inner = line + "  ";
    out += value.is_object() ? '{' : '[';
    bool is_first = true;
    for (const auto& [key, element] : value.items()) {
      out += is_first ? inner : "," + inner;
      is_first = false;
      if (value.is_object()) out += Json(key).dump(-1, ' ', true) + ": ";
      dump_value(element, inner, out);
    }
    out += line;
    out += value.is_object() ? '}' : ']';
  } else if (value.is_number_float() && !std::isfinite(value.get<double>())) {
    const double number = value.get<double>();
    out += std::isnan(number) ? "NaN" : number > 0 ? "Infinity" : "-Infinity";
  } else {
    out += value.dump(-1, ' ', true);
  }
}

}  // namespace

Json parse_json(std::string_view text, std::string_view where) {
  require<FileError>(text.size() <= kMaxJsonBytes, "{}: {} bytes of JSON, at most {} are accepted", where,
                     text.size(), kMaxJsonBytes);
  const bool has_nul = text.find('\0') != std::string_view::npos;
  const bool has_mark = text.starts_with("\xef\xbb\xbf");
  if (has_nul || has_mark) refuse_foreign(text, where);
  require<FileError>(!has_nul, "{}: JSON holds a NUL byte", where);
  require<FileError>(!has_mark, "{}: JSON starts with a byte-order mark", where);

  Json value;
  const bool is_plain =
      text.find("NaN") == std::string_view::npos && text.find("Infinity") == std::string_view::npos;
  const QuotedText quoted = is_plain ? QuotedText{} : quote_non_finite(text);
  if (!is_plain) text = quoted.text;
  JsonBuilder builder(value, quoted, text, where);
  Json::sax_parse(text.begin(), text.end(), &builder);
  return value;
}

std::string json_excerpt(const Json& value) {
  std::string text;
  if (value.is_number_float()) {
    dump_value(value, "", text);
  } else {
    text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  }
  if (text.size() > kLongestExcerpt) text = text.substr(0, kLongestExcerpt) + "...";
  return text;
}

std::string json_reason(const Json::exception& error) {
  const std::string_view text = error.what();
  std::string out(text.substr(0, kLongestReason));
  for (char& c : out)
    if (c < ' ' || c > '~') c = '?';
  return text.size() > kLongestReason ? out + "..." : out;
}

std::string dump_json(const Json& value) {
  std::string text;
  dump_value(value, "\n", text);
  return text + "\n";
}

}  // namespace internal
}  // namespace diffusers

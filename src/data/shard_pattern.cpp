#include "data/shard_pattern.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <optional>
#include <utility>

#include "core/require.h"
#include "io/posix_file.h"

namespace diffusers {
inline namespace internal {
namespace {

using Names = std::vector<std::string>;

constexpr int kDeepestBraces = 32;
constexpr std::string_view kLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Expands one pattern. Backslashes are kept, so that the result of a nested pattern can be joined.
class BraceExpansion {
 public:
  explicit BraceExpansion(std::string_view whole) : whole_(whole) {}

  Names expand(std::string_view pattern, int depth = 0) {
    require<ConfigError>(depth <= kDeepestBraces, "the pattern of shards {} has more than {} nested braces",
                         escaped(whole_), kDeepestBraces);
    Names names{""};
    std::size_t start = 0;
    int open = 0;
    for (std::size_t at = 0; at < pattern.size(); ++at) {
      if (pattern[at] == '\\') {
        ++at;
      } else if (pattern[at] == '{') {
        if (open++ == 0) {
          append(names, {std::string(pattern.substr(start, at - start))});
          start = at + 1;
        }
      } else if (pattern[at] == '}') {
        require_balanced(open > 0);
        if (--open > 0) continue;
        append(names, expression(pattern.substr(start, at - start), depth + 1));
        start = at + 1;
      }
    }
    require_balanced(open == 0);
    append(names, {std::string(pattern.substr(start))});
    return names;
  }

 private:
  void require_balanced(bool is_balanced) const {
    require<ConfigError>(is_balanced, "the pattern of shards {} has unbalanced braces", escaped(whole_));
  }
  void require_few(std::size_t count) const {
    require<ConfigError>(count <= kMostShards, "the pattern of shards {} stands for more than {} files",
                         escaped(whole_), kMostShards);
  }

  /// Appends each of `ends` to each of `names`.
  void append(Names& names, const Names& ends) const {
    if (ends.size() == 1) {
      for (std::string& name : names) name += ends.front();
      return;
    }
    require_few(names.size() * ends.size());
    Names joined;
    joined.reserve(names.size() * ends.size());
    for (const std::string& name : names)
      for (const std::string& end : ends) joined.push_back(name + end);
    names = std::move(joined);
  }

  /// Expands the text between two braces.
  Names expression(std::string_view text, int depth) {
    if (auto range = range_of(text)) return std::move(*range);
    Names names;
    std::size_t start = 0;
    int open = 0;
    const auto add = [&](std::string_view part) {
      for (std::string& name : expand(part, depth)) names.push_back(std::move(name));
      require_few(names.size());
    };
    for (std::size_t at = 0; at < text.size(); ++at) {
      if (text[at] == '\\')
        ++at;
      else if (text[at] == '{')
        ++open;
      else if (text[at] == '}')
        --open;
      else if (text[at] == ',' && open == 0) {
        add(text.substr(start, at - start));
        start = at + 1;
      }
    }
    if (start > 0) {
      add(text.substr(start));
      return names;
    }
    // Braces around a single word are part of the name.
    names = expand(text, depth);
    for (std::string& name : names) name = "{" + name + "}";
    return names;
  }

  static std::optional<int64_t> number(std::string_view text) {
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value > INT32_MAX || value < -INT32_MAX)
      return std::nullopt;
    return value;
  }

  /// Expands "1..3", "01..10", "1..9..2" and "a..e"; nullopt for another text.
  std::optional<Names> range_of(std::string_view text) const {
    std::vector<std::string_view> parts;
    while (true) {
      const auto dots = text.find("..");
      parts.push_back(text.substr(0, dots));
      if (dots == std::string_view::npos) break;
      text.remove_prefix(dots + 2);
    }
    if (parts.size() != 2 && parts.size() != 3) return std::nullopt;
    int64_t step = 1;
    if (parts.size() == 3) {
      const auto given = number(parts[2]);
      if (!given) return std::nullopt;
      step = std::max<int64_t>(1, *given < 0 ? -*given : *given);
    }
    const auto first = number(parts[0]);
    const auto last = number(parts[1]);
    Names names;
    if (first && last) {
      const auto is_padded = [](std::string_view part) {
        return part != "0" && part != "-0" && (part.starts_with('0') || part.starts_with("-0"));
      };
      const std::size_t width =
          is_padded(parts[0]) || is_padded(parts[1]) ? std::max(parts[0].size(), parts[1].size()) : 0;
      require_few(static_cast<std::size_t>((*first < *last ? *last - *first : *first - *last) / step + 1));
      for (int64_t i = *first; *first < *last ? i <= *last : i >= *last; i += *first < *last ? step : -step)
        names.push_back(fmt::format("{:0{}}", i, width));
      return names;
    }
    if (parts[0].size() != 1 || parts[1].size() != 1) return std::nullopt;
    const auto from = kLetters.find(parts[0]);
    const auto to = kLetters.find(parts[1]);
    if (from == std::string_view::npos || to == std::string_view::npos) return std::nullopt;
    const auto direction = from < to ? step : -step;
    for (auto i = static_cast<int64_t>(from);
         from < to ? i <= static_cast<int64_t>(to) : i >= static_cast<int64_t>(to); i += direction)
      names.emplace_back(1, kLetters[static_cast<std::size_t>(i)]);
    return names;
  }

  std::string_view whole_;
};

std::string without_backslashes(const std::string& name) {
  std::string plain;
  for (std::size_t i = 0; i < name.size(); ++i) {
    if (name[i] == '\\' && i + 1 < name.size()) ++i;
    plain += name[i];
  }
  return plain;
}

}  // namespace

std::vector<std::string> expand_shards(std::string_view pattern) {
  Names names;
  while (true) {
    const auto end = pattern.find("::");
    const std::string_view part = pattern.substr(0, end);
    for (const std::string& name : BraceExpansion(part).expand(part)) {
      names.push_back(without_backslashes(name));
      require<ConfigError>(!names.back().empty(), "the pattern of shards {} gives an empty name",
                           escaped(pattern));
    }
    require<ConfigError>(names.size() <= kMostShards, "the pattern of shards stands for more than {} files",
                         kMostShards);
    if (end == std::string_view::npos) return names;
    pattern.remove_prefix(end + 2);
  }
}

}  // namespace internal
}  // namespace diffusers

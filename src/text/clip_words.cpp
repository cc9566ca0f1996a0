#include "text/clip_words.h"

#include <algorithm>
#include <array>

#include "text/unicode.h"

namespace diffusers {
inline namespace internal {
namespace text {
namespace {

constexpr std::array<std::string_view, 2> kSpecialWords{"<|startoftext|>", "<|endoftext|>"};
constexpr std::array<std::string_view, 7> kContractions{"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};

enum class WordClass { kLetter, kNumber, kSpace, kOther };

WordClass class_of(char32_t code_point) {
  if (is_letter(code_point)) return WordClass::kLetter;
  if (is_number(code_point)) return WordClass::kNumber;
  return is_space(code_point) ? WordClass::kSpace : WordClass::kOther;
}

/// A text with the class and the first byte of each code point.
struct ClassifiedText {
  explicit ClassifiedText(std::string_view text) {
    const auto code_points = decode_utf8(text);
    classes.reserve(code_points.size());
    starts.reserve(code_points.size() + 1);
    std::size_t start = 0;
    for (const auto code_point : code_points) {
      classes.push_back(class_of(code_point));
      starts.push_back(start);
      start += code_point < 0x80 ? 1 : code_point < 0x800 ? 2 : code_point < 0x10000 ? 3 : 4;
    }
    starts.push_back(start);
  }
  std::vector<WordClass> classes;
  std::vector<std::size_t> starts;
};

/// Returns the element of `words` that `text` begins with; empty if there is none.
template <std::size_t N>
std::string_view prefix_of(std::string_view text, const std::array<std::string_view, N>& words) {
  const auto found =
      std::find_if(words.begin(), words.end(), [&](std::string_view word) { return text.starts_with(word); });
  return found == words.end() ? std::string_view() : *found;
}

}  // namespace

std::string normalize_for_clip(std::string_view text) {
  std::u32string result;
  bool in_space = false;
  for (const auto code_point : to_nfc(decode_utf8(text))) {
    const bool space = is_space(code_point);
    if (!space) {
      append_lower_case(result, code_point);
    } else if (!in_space) {
      result.push_back(U' ');
    }
    in_space = space;
  }
  return encode_utf8(result);
}

std::vector<std::string_view> split_into_words(std::string_view normalized) {
  const ClassifiedText text(normalized);
  std::vector<std::string_view> words;
  const std::size_t count = text.classes.size();
  for (std::size_t i = 0; i < count;) {
    const auto rest = normalized.substr(text.starts[i]);
    // The words of these tables are ASCII, so they have as many code points as bytes.
    if (const auto special = prefix_of(rest, kSpecialWords); !special.empty()) {
      words.push_back(rest.substr(0, 2));
      words.push_back(rest.substr(2, special.size() - 4));
      words.push_back(rest.substr(special.size() - 2, 2));
      i += special.size();
      continue;
    }
    if (const auto contraction = prefix_of(rest, kContractions); !contraction.empty()) {
      words.push_back(rest.substr(0, contraction.size()));
      i += contraction.size();
      continue;
    }
    const auto kind = text.classes[i];
    std::size_t end = i + 1;
    if (kind == WordClass::kLetter || kind == WordClass::kOther)
      while (end < count && text.classes[end] == kind) ++end;
    if (kind != WordClass::kSpace) words.push_back(rest.substr(0, text.starts[end] - text.starts[i]));
    i = end;
  }
  return words;
}

}  // namespace text
}  // namespace internal
}  // namespace diffusers

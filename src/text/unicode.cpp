#include "text/unicode.h"

#include <algorithm>
#include <array>
#include <vector>

#include <utf8proc.h>

#include "core/require.h"
#include "core/utf8.h"
#include "text/unicode_additions.h"

namespace diffusers {
inline namespace internal {
namespace text {
namespace {

constexpr char32_t kReplacement = 0xFFFD;
constexpr char32_t kCapitalIWithDot = 0x130;
constexpr char32_t kCombiningDotAbove = 0x307;

utf8proc_category_t category_of(char32_t code_point) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(code_point));
  return category == UTF8PROC_CATEGORY_CN ? newer_category(code_point) : category;
}

/// Reads one code point and returns its number of bytes; 0 if the text is not UTF-8.
std::size_t next_code_point(std::string_view text, char32_t& code_point) {
  utf8proc_int32_t value = -1;
  const auto length = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                       static_cast<utf8proc_ssize_t>(text.size()), &value);
  if (length <= 0) return 0;
  code_point = static_cast<char32_t>(value);
  return static_cast<std::size_t>(length);
}

}  // namespace

std::u32string decode_utf8(std::string_view text) {
  std::u32string code_points;
  code_points.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    char32_t code_point = 0;
    const auto length = next_code_point(text.substr(at), code_point);
    require<TextError>(length > 0, "the text is not UTF-8: byte {:#04x} at position {} begins no code point",
                       static_cast<unsigned char>(text[at]), at);
    code_points.push_back(code_point);
    at += length;
  }
  return code_points;
}

void append_utf8(std::string& text, char32_t code_point) {
  std::array<utf8proc_uint8_t, 4> bytes{};
  const auto length = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code_point), bytes.data());
  text.append(bytes.begin(), bytes.begin() + length);
}

std::string encode_utf8(std::u32string_view text) {
  std::string bytes;
  bytes.reserve(text.size());
  for (const auto code_point : text) append_utf8(bytes, code_point);
  return bytes;
}

std::string replace_invalid_utf8(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  for (std::size_t at = 0; at < bytes.size();) {
    char32_t code_point = 0;
    auto length = next_code_point(bytes.substr(at), code_point);
    if (length > 0) {
      text.append(bytes.substr(at, length));
    } else {
      length = utf8_prefix(bytes.substr(at)).size;
      append_utf8(text, kReplacement);
    }
    at += length;
  }
  return text;
}

std::u32string to_nfc(const std::u32string& text) {
  // Code points below U+0300 do not combine with their neighbours, so such a text is normalised already.
  if (std::all_of(text.begin(), text.end(), [](char32_t c) { return c < 0x300; })) return text;

  constexpr auto kOptions = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  std::vector<utf8proc_int32_t> decomposed;
  decomposed.reserve(text.size() + text.size() / 2);
  std::array<utf8proc_int32_t, 32> parts{};
  for (const auto code_point : text) {
    int boundary = 0;
    const auto count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(code_point), parts.data(),
                                               parts.size(), kOptions, &boundary);
    require<TextError>(count >= 0 && count <= static_cast<utf8proc_ssize_t>(parts.size()),
                       "cannot normalise U+{:04X}: {}", static_cast<uint32_t>(code_point),
                       count < 0 ? utf8proc_errmsg(count) : "too many parts");
    decomposed.insert(decomposed.end(), parts.begin(), parts.begin() + count);
  }

  // Canonical order. utf8proc_decompose would swap neighbours, which is quadratic in the length of a run.
  const auto class_of = [](utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; };
  for (auto begin = decomposed.begin(); begin != decomposed.end();) {
    if (class_of(*begin) == 0) {
      ++begin;
      continue;
    }
    const auto end = std::find_if(begin, decomposed.end(), [&](auto c) { return class_of(c) == 0; });
    std::stable_sort(begin, end, [&](auto a, auto b) { return class_of(a) < class_of(b); });
    begin = end;
  }
  const auto count =
      utf8proc_normalize_utf32(decomposed.data(), static_cast<utf8proc_ssize_t>(decomposed.size()), kOptions);
  require<TextError>(count >= 0, "cannot normalise the text: {}", utf8proc_errmsg(count));
  return {decomposed.begin(), decomposed.begin() + count};
}

void append_lower_case(std::u32string& text, char32_t code_point) {
  // The only code point whose lower case has two code points.
  if (code_point == kCapitalIWithDot) {
    text.append({U'i', kCombiningDotAbove});
    return;
  }
  if (const auto range = find_range(kNewCapitals, code_point); range != kNewCapitals.end()) {
    text.push_back(range->small + (code_point - range->first));
    return;
  }
  text.push_back(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code_point))));
}

bool is_letter(char32_t code_point) {
  const auto category = category_of(code_point);
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool is_number(char32_t code_point) {
  const auto category = category_of(code_point);
  return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

bool is_space(char32_t code_point) {
  if ((code_point >= 0x9 && code_point <= 0xD) || code_point == 0x85) return true;
  const auto category = category_of(code_point);
  return category == UTF8PROC_CATEGORY_ZS || category == UTF8PROC_CATEGORY_ZL ||
         category == UTF8PROC_CATEGORY_ZP;
}

bool is_word_character(char32_t code_point) {
  const auto category = category_of(code_point);
  const bool by_category = (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) ||
                           category == UTF8PROC_CATEGORY_PC;
  const bool is_joiner = code_point == 0x200C || code_point == 0x200D;
  // Letters in circles and squares count as alphabetic.
  const bool is_enclosed =
      (code_point >= 0x24B6 && code_point <= 0x24E9) || (code_point >= 0x1F130 && code_point <= 0x1F149) ||
      (code_point >= 0x1F150 && code_point <= 0x1F169) || (code_point >= 0x1F170 && code_point <= 0x1F189);
  return by_category || is_joiner || is_enclosed;
}

}  // namespace text
}  // namespace internal
}  // namespace diffusers

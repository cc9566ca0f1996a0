#pragma once

// Additions of Unicode 15.1 and 16 (and the lower case of Unicode 17), as in the tables of the tokenizers
// library. The utf8proc of Linux distributions is older.

#include <algorithm>
#include <array>
#include <iterator>

#include <utf8proc.h>

namespace diffusers {
inline namespace internal {
namespace text {

struct CodePointRange {
  char32_t first, last;
};

inline constexpr std::array kNewLetters = std::to_array<CodePointRange>({
    {0x1C89, 0x1C8A},   {0xA7CB, 0xA7CD},   {0xA7DA, 0xA7DC},   {0x105C0, 0x105F3}, {0x10D4A, 0x10D65},
    {0x10D6F, 0x10D85}, {0x10EC2, 0x10EC4}, {0x11380, 0x11389}, {0x1138B, 0x1138B}, {0x1138E, 0x1138E},
    {0x11390, 0x113B5}, {0x113B7, 0x113B7}, {0x113D1, 0x113D1}, {0x113D3, 0x113D3}, {0x11BC0, 0x11BE0},
    {0x13460, 0x143FA}, {0x16100, 0x1611D}, {0x16D40, 0x16D6C}, {0x18CFF, 0x18CFF}, {0x1E5D0, 0x1E5ED},
    {0x1E5F0, 0x1E5F0}, {0x2EBF0, 0x2EE5D},
});

inline constexpr std::array kNewMarks = std::to_array<CodePointRange>({
    {0x897, 0x897},
    {0x10D69, 0x10D6D},
    {0x10EFC, 0x10EFC},
    {0x113B8, 0x113C0},
    {0x113C2, 0x113C2},
    {0x113C5, 0x113C5},
    {0x113C7, 0x113CA},
    {0x113CC, 0x113D0},
    {0x113D2, 0x113D2},
    {0x113E1, 0x113E2},
    {0x11F5A, 0x11F5A},
    {0x1611E, 0x1612F},
    {0x1E5EE, 0x1E5EF},
});

inline constexpr std::array kNewDigits = std::to_array<CodePointRange>({
    {0x10D40, 0x10D49},
    {0x116D0, 0x116E3},
    {0x11BF0, 0x11BF9},
    {0x16130, 0x16139},
    {0x16D70, 0x16D79},
    {0x1CCF0, 0x1CCF9},
    {0x1E5F1, 0x1E5FA},
});

/// A range of capital letters whose small letters are at a constant distance.
struct CapitalRange {
  char32_t first, last, small;
};

inline constexpr std::array kNewCapitals = std::to_array<CapitalRange>({
    {0x1C89, 0x1C89, 0x1C8A},
    {0xA7CB, 0xA7CB, 0x264},
    {0xA7CC, 0xA7CC, 0xA7CD},
    {0xA7CE, 0xA7CE, 0xA7CF},
    {0xA7D2, 0xA7D2, 0xA7D3},
    {0xA7D4, 0xA7D4, 0xA7D5},
    {0xA7DA, 0xA7DA, 0xA7DB},
    {0xA7DC, 0xA7DC, 0x19B},
    {0x10D50, 0x10D65, 0x10D70},
    {0x16EA0, 0x16EB8, 0x16EBB},
});

/// Returns the range that contains a code point, or the end.
template <class Ranges>
constexpr auto find_range(const Ranges& ranges, char32_t code_point) {
  const auto found = std::partition_point(std::begin(ranges), std::end(ranges),
                                          [&](const auto& range) { return range.last < code_point; });
  return found != std::end(ranges) && found->first <= code_point ? found : std::end(ranges);
}

/// Returns the category of a code point that utf8proc does not know.
inline utf8proc_category_t newer_category(char32_t code_point) {
  if (find_range(kNewLetters, code_point) != kNewLetters.end()) return UTF8PROC_CATEGORY_LO;
  if (find_range(kNewMarks, code_point) != kNewMarks.end()) return UTF8PROC_CATEGORY_MN;
  if (find_range(kNewDigits, code_point) != kNewDigits.end()) return UTF8PROC_CATEGORY_ND;
  return UTF8PROC_CATEGORY_CN;
}

}  // namespace text
}  // namespace internal
}  // namespace diffusers

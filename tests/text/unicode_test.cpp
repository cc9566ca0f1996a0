#include "text/unicode.h"

#include <string>
#include <vector>

#include <diffusers/io/files.h>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include "core/json.h"
#include "support/golden.h"
#include "text/clip_words.h"

namespace diffusers::test {
namespace {

using namespace text;

std::string nfc(std::string_view utf8) { return encode_utf8(to_nfc(decode_utf8(utf8))); }

TEST(Unicode, BytesThatAreNoUtf8AreRefusedWithTheirPosition) {
  for (const std::string_view bytes : {"ab\x80", "ab\xc0\x80", "ab\xe2\x82", "ab\xed\xa0\x80",
                                       "ab\xf4\x90\x80\x80", "ab\xff", "ab\xf8\x88\x80\x80"}) {
    expect_throws_with<TextError>([&] { decode_utf8(bytes); }, "position 2");
  }
}

TEST(Unicode, BrokenBytesAreReplacedAsInPython) {
  EXPECT_EQ(replace_invalid_utf8("a\xe2\x82"), "a\uFFFD");
  EXPECT_EQ(replace_invalid_utf8("\xf0\x9f\x98z"), "\uFFFDz");
  EXPECT_EQ(replace_invalid_utf8("\xed\xa0\x80"), "\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(replace_invalid_utf8("a\xc0\x80"
                                 "b"),
            "a\uFFFD\uFFFDb");
  EXPECT_EQ(replace_invalid_utf8("\xc3\xa9\xff\xfe"), "\u00e9\uFFFD\uFFFD");
  EXPECT_EQ(replace_invalid_utf8("\xe2\xe2\x82\xac"), "\uFFFD\u20ac");
}

TEST(Unicode, ComposesCanonically) {
  EXPECT_EQ(nfc("e\u0301"), "\u00e9");
  EXPECT_EQ(nfc("\u212b"), "\u00c5");
  EXPECT_EQ(nfc("e\u0323\u0302"), "\u1ec7");
  EXPECT_EQ(nfc("e\u0302\u0323"), "\u1ec7");
  EXPECT_EQ(nfc("\u1100\u1161\u11a8"), "\uac01");
  EXPECT_EQ(nfc("\ufb01"), "\ufb01") << "compatibility characters stay";
  EXPECT_EQ(nfc("\u0958"), "\u0915\u093c") << "excluded from composition";
}

TEST(Unicode, ComposesLongRunsOfMarksInLittleTime) {
  std::string text = "a";
  for (int i = 0; i < 100'000; ++i) text += i % 2 == 0 ? "\u0301" : "\u0323";
  EXPECT_EQ(decode_utf8(nfc(text)).size(), 100'000U);
}

TEST(Unicode, LowerCaseTakesOneCodePointAtATime) {
  EXPECT_EQ(normalize_for_clip("\u0130 I \u0131"), "i\u0307 i \u0131");
  EXPECT_EQ(normalize_for_clip("\u03a3\u0391\u03a3"), "\u03c3\u03b1\u03c3");
  EXPECT_EQ(normalize_for_clip("\u1e9e \u00df"), "\u00df \u00df");
}

TEST(Unicode, RunsOfWhiteSpaceBecomeOneSpace) {
  EXPECT_EQ(normalize_for_clip("a \t\r\n\u00a0\u2003\u3000\u2028\u0085z"), "a z");
  EXPECT_EQ(normalize_for_clip("a\u200bb\ufeffc\u001cd"), "a\u200bb\ufeffc\u001cd") << "not white space";
}

const Json& unicode_golden() {
  static const Json json =
      parse_json(read_text_file(golden_path("unicode_classes.json")), "unicode_classes.json");
  return json;
}

/// Returns [first, last] of each run of code points for which `holds` is true, flattened. Surrogates are left
/// out.
template <class Predicate>
std::vector<uint32_t> ranges_where(Predicate&& holds) {
  std::vector<uint32_t> ranges;
  for (char32_t c = 0; c < 0x110000; ++c) {
    if ((c >= 0xD800 && c <= 0xDFFF) || !holds(c)) continue;
    if (!ranges.empty() && ranges.back() == c - 1)
      ranges.back() = c;
    else
      ranges.insert(ranges.end(), {c, c});
  }
  return ranges;
}

TEST(Unicode, ClassesOfAllCodePointsAreThoseOfTokenizers) {
  EXPECT_EQ(ranges_where(is_letter), unicode_golden()["letter"].get<std::vector<uint32_t>>());
  EXPECT_EQ(ranges_where(is_number), unicode_golden()["number"].get<std::vector<uint32_t>>());
  EXPECT_EQ(ranges_where(is_space), unicode_golden()["space"].get<std::vector<uint32_t>>());
}

/// Compares the result of a function for each single code point.
template <class Change>
void expect_changes(const std::string& name, Change&& change) {
  std::string text;
  int64_t count = 0;
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    const std::u32string changed = change(c);
    if (changed == std::u32string(1, c)) continue;
    text += fmt::format("{:X}:{};", static_cast<uint32_t>(c), encode_utf8(changed));
    ++count;
  }
  EXPECT_EQ(count, unicode_golden()[name]["count"].get<int64_t>()) << name;
  EXPECT_EQ(crc32(0, reinterpret_cast<const Bytef*>(text.data()), static_cast<uInt>(text.size())),
            unicode_golden()[name]["crc32"].get<uLong>())
      << name;
}

TEST(Unicode, AllCodePointsBecomeWhatTokenizersMakesOfThem) {
  expect_changes("lower_case", [](char32_t c) {
    std::u32string text;
    append_lower_case(text, c);
    return text;
  });
  expect_changes("nfc", [](char32_t c) { return to_nfc(std::u32string(1, c)); });
}

TEST(ClipWords, AreLettersDigitsContractionsAndTheRest) {
  using Words = std::vector<std::string_view>;
  EXPECT_EQ(split_into_words("it's 42%"), (Words{"it", "'s", "4", "2", "%"}));
  EXPECT_EQ(split_into_words("''s !'s"), (Words{"''", "s", "!'", "s"}));
  EXPECT_EQ(split_into_words("'llama"), (Words{"'ll", "ama"}));
  EXPECT_EQ(split_into_words("\u00e9\u4f60\u2167\u0301"), (Words{"\u00e9\u4f60", "\u2167", "\u0301"}));
  EXPECT_EQ(split_into_words("x<|endoftext|>!"), (Words{"x", "<|", "endoftext", "|>", "!"}));
  EXPECT_EQ(split_into_words("!<|endoftext|>!"), (Words{"!<|", "endoftext", "|>!"}));
  EXPECT_EQ(split_into_words(""), Words{});
  EXPECT_EQ(split_into_words("   "), Words{});
}

}  // namespace
}  // namespace diffusers::test

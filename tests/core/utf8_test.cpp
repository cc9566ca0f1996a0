#include "core/utf8.h"

#include <string_view>

#include <gtest/gtest.h>

namespace diffusers {
namespace {

TEST(Utf8, TellsTextFromOtherBytes) {
  for (const std::string_view text : {"", "ab", "a\xc3\xa9\xe4\xbd\xa0\xf0\x9f\x98\x80", "\xed\x9f\xbf",
                                      "\xee\x80\x80", "\xf4\x8f\xbf\xbf"})
    EXPECT_TRUE(is_utf8(text)) << text;
  EXPECT_TRUE(is_utf8(std::string_view("a\0b", 3)));
  for (const std::string_view bytes :
       {"ab\x80", "ab\xc0\x80", "ab\xc1\xbf", "ab\xe2\x82", "ab\xe0\x80\x80", "ab\xed\xa0\x80",
        "ab\xf0\x80\x80\x80", "ab\xf4\x90\x80\x80", "ab\xf5\x80\x80\x80", "ab\xff", "ab\xf8\x88\x80\x80"})
    EXPECT_FALSE(is_utf8(bytes)) << bytes;
}

TEST(Utf8, MeasuresWhatBreaksOff) {
  const auto expect_prefix = [](std::string_view bytes, std::size_t size, bool is_complete) {
    const Utf8Prefix prefix = utf8_prefix(bytes);
    EXPECT_EQ(prefix.size, size) << bytes;
    EXPECT_EQ(prefix.is_complete, is_complete) << bytes;
  };
  expect_prefix("ab", 1, true);
  expect_prefix(
      "\xc3\xa9"
      "b",
      2, true);
  expect_prefix("\xf0\x9f\x98\x80", 4, true);
  expect_prefix("\xf0\x9f\x98", 3, false);
  expect_prefix(
      "\xe2\x82"
      "b",
      2, false);
  expect_prefix("\xe0\x80\x80", 1, false);
  expect_prefix("\x80", 1, false);
  expect_prefix("\xff", 1, false);
}

}  // namespace
}  // namespace diffusers

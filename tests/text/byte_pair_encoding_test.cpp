#include "text/byte_pair_encoding.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers::test {
namespace {

using namespace text;
using Ids = std::vector<int64_t>;

Vocabulary vocabulary_of(const std::vector<std::string>& tokens, MergeList merges) {
  Vocabulary vocabulary{{}, std::move(merges)};
  for (std::size_t i = 0; i < tokens.size(); ++i) vocabulary.tokens[tokens[i]] = static_cast<int64_t>(i);
  return vocabulary;
}

Ids encode(const BytePairEncoding& model, std::string_view word) {
  Ids ids;
  model.encode(word, ids);
  return ids;
}

TEST(BytePairEncoding, MergesByRankThenFromTheLeft) {
  const BytePairEncoding model(vocabulary_of({"a", "b", "a</w>", "b</w>", "aa", "ab", "aab", "aa</w>"},
                                             {{"a", "b"}, {"a", "a"}, {"a", "ab"}, {"a", "a</w>"}}),
                               "a");
  EXPECT_EQ(encode(model, "a"), (Ids{2}));
  EXPECT_EQ(encode(model, "aa"), (Ids{7}));
  EXPECT_EQ(encode(model, "aaa"), (Ids{4, 2})) << "the lower rank goes first";
  EXPECT_EQ(encode(model, "aaaaa"), (Ids{4, 4, 2}));
  EXPECT_EQ(encode(model, "aabb"), (Ids{6, 3}));
  EXPECT_EQ(encode(model, "abab"), (Ids{5, 0, 3}));
  EXPECT_EQ(encode(model, ""), Ids{});
}

TEST(BytePairEncoding, BytesWithoutATokenAreUnknown) {
  const BytePairEncoding model(vocabulary_of({"a", "a</w>", "<unk>"}, {}), "<unk>");
  EXPECT_EQ(encode(model, "a\xc3\xa9z"), (Ids{0, 2, 2, 2}));
  const BytePairEncoding without(vocabulary_of({"a", "a</w>"}, {}), "<unk>");
  EXPECT_EQ(encode(without, "aa"), (Ids{0, 1}));
  expect_throws_with<TextError>([&] { encode(without, "z"); }, "<unk>");
}

TEST(BytePairEncoding, MergesAndIdsThatDoNotFitAreRefused) {
  const auto make = [](Vocabulary vocabulary) { BytePairEncoding(std::move(vocabulary), "a"); };
  expect_throws_with<ConfigError>([&] { make(vocabulary_of({"a"}, {{"a", "z"}})); }, "no token \"z\"");
  expect_throws_with<ConfigError>([&] { make(vocabulary_of({"a", "b"}, {{"a", "b"}})); }, "no token \"ab\"");
  expect_throws_with<ConfigError>([&] { make({{{"a", 0}, {"b", 0}}, {}}); }, "same id");
  expect_throws_with<ConfigError>([&] { make({{{"a", -1}}, {}}); }, "-1");
}

TEST(BytePairEncoding, AWordOfAMillionBytesTakesLittleTime) {
  const BytePairEncoding model(vocabulary_of({"a", "a</w>", "aa", "aaaa"}, {{"a", "a"}, {"aa", "aa"}}), "a");
  const auto ids = encode(model, std::string(1'000'001, 'a'));
  EXPECT_EQ(ids.size(), 250'001U);
  EXPECT_EQ(ids.back(), 1);
}

TEST(ByteAlphabet, SpellsEachByteByALetterOfItsOwn) {
  const auto& alphabet = ByteAlphabet::instance();
  EXPECT_EQ(alphabet.letter('A'), "A");
  EXPECT_EQ(alphabet.letter(' '), "\u0120");
  EXPECT_EQ(alphabet.letter(0), "\u0100");
  EXPECT_EQ(alphabet.letter(0xad), "\u0143");
  EXPECT_EQ(alphabet.letter(0xe9), "\u00e9");
  std::string letters;
  std::string bytes;
  for (unsigned byte = 0; byte < 256; ++byte) {
    letters += alphabet.letter(static_cast<unsigned char>(byte));
    bytes.push_back(static_cast<char>(byte));
  }
  EXPECT_EQ(alphabet.bytes_of(letters), bytes);
  EXPECT_EQ(alphabet.bytes_of("\u4f60"), "\u4f60") << "no letter of it";
}

}  // namespace
}  // namespace diffusers::test

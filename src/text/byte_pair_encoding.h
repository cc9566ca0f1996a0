#pragma once

// Byte-level byte-pair encoding (Sennrich et al. 2016, on bytes as in GPT-2). This header does not use
// LibTorch.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/vocabulary.h"

namespace diffusers {
inline namespace internal {
namespace text {

/// The letters of bytes in the vocabulary: printable Latin-1 characters stand for themselves, all other bytes
/// have code points from U+0100.
class ByteAlphabet {
 public:
  static const ByteAlphabet& instance();
  /// Returns the letter of a byte, in UTF-8.
  const std::string& letter(unsigned char byte) const { return letters_[byte]; }
  /// Returns the bytes of a token. A token with any other letter stands for its own UTF-8 text.
  std::string bytes_of(std::string_view token) const;

 private:
  ByteAlphabet();
  std::array<std::string, 256> letters_;
  std::unordered_map<char32_t, unsigned char> bytes_;
};

/// A vocabulary and its merges. Immutable.
class BytePairEncoding {
 public:
  /// @param unk_token token for bytes that the vocabulary has no token for
  /// @throws ConfigError if a merge names a token that the vocabulary does not have, or if an id is negative
  ///   or occurs twice
  BytePairEncoding(Vocabulary vocabulary, std::string unk_token);
  BytePairEncoding(const BytePairEncoding&) = delete;
  BytePairEncoding& operator=(const BytePairEncoding&) = delete;

  /// Appends the ids of one word.
  /// @throws TextError if the vocabulary has neither a token for a byte nor the unknown token
  void encode(std::string_view word, std::vector<int64_t>& ids) const;
  std::optional<int64_t> token_to_id(std::string_view token) const;
  std::optional<std::string> id_to_token(int64_t id) const;
  int64_t size() const { return static_cast<int64_t>(vocabulary_.tokens.size()); }
  const Vocabulary& vocabulary() const { return vocabulary_; }

 private:
  struct Merge {
    int64_t rank = 0;
    int64_t id = 0;
  };
  const Merge* find_merge(int64_t left, int64_t right) const;
  void merge_all(std::vector<int64_t>& symbols) const;

  Vocabulary vocabulary_;
  std::string unk_token_;
  std::optional<int64_t> unk_id_;
  std::unordered_map<int64_t, const std::string*> token_of_;
  std::unordered_map<uint64_t, Merge> merges_;
  std::array<std::optional<int64_t>, 256> byte_ids_;       ///< id of a byte inside of a word
  std::array<std::optional<int64_t>, 256> last_byte_ids_;  ///< id of a byte at the end of a word
};

}  // namespace text
}  // namespace internal
}  // namespace diffusers

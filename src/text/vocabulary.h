#pragma once

// Parses the vocabulary files of a byte-pair encoding. The files are not trusted: the result is a vocabulary
// or a FileError. Neither this header nor its includes use LibTorch, so that a fuzz target can link it alone.

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json.h"

namespace diffusers {
inline namespace internal {
namespace text {

/// Largest file size in bytes. CLIP's vocabulary has 1 MB, its tokenizer.json 4 MB.
inline constexpr std::size_t kMaxVocabularyBytes = kMaxJsonBytes;
/// Largest token id. Ids are rows of an embedding.
inline constexpr int64_t kMaxTokenId = (int64_t{1} << 31) - 2;

using VocabularyMap = std::map<std::string, int64_t>;
/// Merges in the order of their rank.
using MergeList = std::vector<std::pair<std::string, std::string>>;

/// Content of `tokenizer.json`, or of `vocab.json` and `merges.txt`.
struct Vocabulary {
  VocabularyMap tokens;
  MergeList merges;
};

/// A token of the field `added_tokens`, `added_tokens_decoder` or a special token of a tokenizer's files.
struct TokenEntry {
  std::string content;
  bool single_word = false;
  bool lstrip = false;
  bool rstrip = false;
  bool normalized = true;
  bool special = false;
  bool operator==(const TokenEntry&) const = default;
};

/// Parses `vocab.json`.
/// @param where path or name of the text, for error messages
/// @throws FileError naming `where` unless the text is a JSON object from tokens to unique ids in [0,
///   kMaxTokenId]
VocabularyMap parse_vocabulary(std::string_view json, std::string_view where);

/// Parses lines of two tokens with a space between. Lines that begin with "#version" are skipped.
/// @throws FileError naming `where` and the line
MergeList parse_merges(std::string_view text, std::string_view where);

/// Parses a token: a string, or an object with its flags.
/// @throws FileError naming `where` and `key`
TokenEntry parse_token(const Json& json, std::string_view key, std::string_view where);

/// The model of a tokenizer.json, and its added tokens by id.
struct TokenizerFile {
  Vocabulary vocabulary;
  std::map<int64_t, TokenEntry> added_tokens;
};

/// Parses `tokenizer.json`.
/// @throws FileError naming `where` unless it has a byte-pair encoding with the end-of-word suffix "</w>"
TokenizerFile parse_tokenizer_json(std::string_view json, std::string_view where);

/// Parses an id from a JSON number or from the text of an object's key.
/// @throws FileError naming `where` and `key` unless it is in [0, kMaxTokenId]
int64_t parse_token_id(const Json& json, std::string_view key, std::string_view where);
int64_t parse_token_id(std::string_view text, std::string_view where);

}  // namespace text
}  // namespace internal
}  // namespace diffusers

#pragma once

// The vocabulary files of a byte-pair encoding. They may come from anywhere: whatever is in them, the outcome
// is a vocabulary or a FileError. No LibTorch here, nor in what it includes, so that a fuzz target can link
// this alone.

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

/// Files larger than this are refused before they are read (that of CLIP has 1 MB, its tokenizer.json 4 MB).
inline constexpr std::size_t kMaxVocabularyBytes = kMaxJsonBytes;
/// Ids are rows of an embedding.
inline constexpr int64_t kMaxTokenId = (int64_t{1} << 31) - 2;

using VocabularyMap = std::map<std::string, int64_t>;
/// In the order of their rank.
using MergeList = std::vector<std::pair<std::string, std::string>>;

/// What `tokenizer.json`, or `vocab.json` and `merges.txt`, say.
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

/// @param where what the text is (a path), for messages
/// @throws FileError naming `where` unless the text is a JSON object from tokens to ids, each id in
///   [0, kMaxTokenId] and once
VocabularyMap parse_vocabulary(std::string_view json, std::string_view where);

/// Lines of two tokens with a space between; those that begin with "#version" are passed over.
/// @throws FileError naming `where` and the line
MergeList parse_merges(std::string_view text, std::string_view where);

/// A token written as a string, or as an object with its flags.
/// @throws FileError naming `where` and `key`
TokenEntry parse_token(const Json& json, std::string_view key, std::string_view where);

/// The model of a tokenizer.json, and the tokens that it adds by their ids.
struct TokenizerFile {
  Vocabulary vocabulary;
  std::map<int64_t, TokenEntry> added_tokens;
};

/// @throws FileError naming `where` unless it holds a byte-pair encoding with the end-of-word suffix "</w>"
TokenizerFile parse_tokenizer_json(std::string_view json, std::string_view where);

/// An id, from a JSON number or from the text of an object's key.
/// @throws FileError naming `where` and `key` unless it is in [0, kMaxTokenId]
int64_t parse_token_id(const Json& json, std::string_view key, std::string_view where);
int64_t parse_token_id(std::string_view text, std::string_view where);

}  // namespace text
}  // namespace internal
}  // namespace diffusers

#pragma once

// Tokens that are extracted from a text before it is normalised and split into words. This header does not
// use LibTorch.

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "text/byte_pair_encoding.h"
#include "text/vocabulary.h"

namespace diffusers {
inline namespace internal {
namespace text {

/// Added tokens, with the semantics of Python's `tokenizers`. Special tokens, such as the begin and end of a
/// text, are added tokens, too.
class AddedVocabulary {
 public:
  /// Adds tokens. An existing added token gets the new flags. A token of the vocabulary keeps its id. Other
  /// tokens get the next free ids.
  /// @return number of tokens that were added or changed
  /// @throws TextError if a token is not UTF-8
  int64_t add(const std::vector<TokenEntry>& tokens, const BytePairEncoding& model);

  /// Receives the id of an added token and the text that it matched.
  using OnToken = std::function<void(int64_t, std::string_view)>;
  using OnText = std::function<void(std::string_view)>;
  /// Calls `on_token` for the added tokens in a text and `on_text` for the normalised text between them, in
  /// order.
  /// @param split_special true treats special tokens in the text as ordinary text
  /// @throws TextError if the text is not UTF-8
  void split(std::string_view text, bool split_special, const OnToken& on_token, const OnText& on_text) const;

  std::optional<int64_t> token_to_id(std::string_view token) const;
  /// Returns the token for decoding, in normalised form if it matches normalised text.
  std::optional<std::string> id_to_token(int64_t id) const;
  bool is_special(std::string_view token) const { return special_.contains(std::string(token)); }
  const std::map<int64_t, TokenEntry>& tokens() const { return tokens_; }

 private:
  /// Patterns by their first byte: the longest first, and among equals the first added.
  struct Patterns {
    struct Pattern {
      std::string content;
      int64_t id;
    };
    std::array<std::vector<Pattern>, 256> by_first_byte;
    void add(const std::string& content, int64_t id);
    const Pattern* match(std::string_view text) const;
  };
  void split_at(const Patterns& patterns, std::string_view text, bool split_special, const OnToken& on_token,
                const OnText& on_text) const;
  void refresh();

  std::map<std::string, int64_t, std::less<>> ids_;
  std::map<int64_t, TokenEntry> tokens_;
  std::map<int64_t, std::string> normalized_;  ///< normalised content, if it differs from the content
  std::set<std::string> special_;
  Patterns in_text_;        ///< matched in the original text
  Patterns in_normalized_;  ///< matched in the normalised text
};

}  // namespace text
}  // namespace internal
}  // namespace diffusers

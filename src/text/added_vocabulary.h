#pragma once

// The tokens that are cut out of a text before it is normalised and split into words. No LibTorch here.

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

/// Added tokens, as Python's `tokenizers` keeps them. Special ones, such as begin and end of a text, are
/// added tokens, too.
class AddedVocabulary {
 public:
  /// Adds tokens. One that is there already takes the new flags; one that the vocabulary has keeps its id,
  /// others get the next free ones.
  /// @return how many were added or changed
  /// @throws TextError if one is not UTF-8
  int64_t add(const std::vector<TokenEntry>& tokens, const BytePairEncoding& model);

  /// Receives an added token and what it matched in the text.
  using OnToken = std::function<void(int64_t, std::string_view)>;
  using OnText = std::function<void(std::string_view)>;
  /// Calls `on_token` for the added tokens in a text and `on_text` for the normalised text between them, in
  /// order.
  /// @param split_special special tokens in the text are text
  /// @throws TextError if the text is not UTF-8
  void split(std::string_view text, bool split_special, const OnToken& on_token, const OnText& on_text) const;

  std::optional<int64_t> token_to_id(std::string_view token) const;
  /// The token as decoding shows it: normalised if it is looked for so.
  std::optional<std::string> id_to_token(int64_t id) const;
  bool is_special(std::string_view token) const { return special_.contains(std::string(token)); }
  const std::map<int64_t, TokenEntry>& tokens() const { return tokens_; }

 private:
  /// What to look for, by its first byte; the longest first, of equals the first.
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
  std::map<int64_t, std::string> normalized_;  ///< of the tokens whose normalised content is another
  std::set<std::string> special_;
  Patterns in_text_;        ///< looked for in the text as it is
  Patterns in_normalized_;  ///< looked for in the normalised text
};

}  // namespace text
}  // namespace internal
}  // namespace diffusers

#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <diffusers/text/clip_tokenizer.h>

#include "text/added_vocabulary.h"
#include "text/byte_pair_encoding.h"
#include "text/vocabulary.h"

namespace diffusers {
inline namespace internal {
namespace text {

/// The special tokens of a tokenizer by their role, as given.
struct SpecialTokens {
  TokenEntry bos;
  TokenEntry eos;
  TokenEntry unk;
  TokenEntry pad;                 ///< empty content: no padding token
  std::vector<TokenEntry> named;  ///< tokens with other roles, which CLIP does not use
  std::vector<TokenEntry> extra;
};

struct TokenizerSettings {
  std::optional<int64_t> model_max_length;  ///< nullopt: no limit
  TokenizerSide padding_side = TokenizerSide::kRight;
  TokenizerSide truncation_side = TokenizerSide::kRight;
  bool split_special_tokens = false;
  std::string source;  ///< JSON text of tokenizer_config.json; empty if there was none
};

/// Makes a special token from its text, as Python's `AddedToken(text, special=True)`.
TokenEntry special_token(std::string_view content);

struct CLIPTokenizerState {
  std::shared_ptr<const BytePairEncoding> model;
  AddedVocabulary added;
  SpecialTokens special;
  TokenizerSettings settings;

  /// @param added_tokens added tokens of a file, by id
  CLIPTokenizerState(Vocabulary vocabulary, const std::map<int64_t, TokenEntry>& added_tokens,
                     SpecialTokens special_tokens, TokenizerSettings tokenizer_settings);
  /// Returns the id of a token of the vocabulary or of an added token; the id of the unknown token if there
  /// is none.
  int64_t id_of(std::string_view token) const;
  std::optional<std::string> token_of(int64_t id) const;
  /// @param matched if not null, receives the matched texts of the tokens
  void encode(std::string_view text, std::vector<int64_t>& ids,
              std::vector<std::string>* matched = nullptr) const;
  int64_t size() const;
};

CLIPTokenizerState read_clip_tokenizer(const std::filesystem::path& folder);
void write_clip_tokenizer(const CLIPTokenizerState& state, const std::filesystem::path& folder);

}  // namespace text
}  // namespace internal
}  // namespace diffusers

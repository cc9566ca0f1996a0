#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/enum_names.h>
#include <diffusers/core/tensor.h>

namespace diffusers {

inline namespace internal {
namespace text {
struct CLIPTokenizerState;
struct TokenEntry;
}  // namespace text
}  // namespace internal

/// How far short sequences are filled up with the pad token: to the longest of the call, to `max_length`, or
/// not at all.
enum class Padding { kLongest, kMaxLength, kDoNotPad };
template <>
struct EnumNames<Padding> {
  static constexpr std::string_view kKey = "padding";
  static constexpr std::array<std::pair<Padding, std::string_view>, 3> kTable{
      {{Padding::kLongest, "longest"},
       {Padding::kMaxLength, "max_length"},
       {Padding::kDoNotPad, "do_not_pad"}}};
};

/// The end at which sequences are padded or cut.
enum class TokenizerSide { kRight, kLeft };
template <>
struct EnumNames<TokenizerSide> {
  static constexpr std::string_view kKey = "padding_side";
  static constexpr std::array<std::pair<TokenizerSide, std::string_view>, 2> kTable{
      {{TokenizerSide::kRight, "right"}, {TokenizerSide::kLeft, "left"}}};
};

/// A token that is cut out of the text before anything else is done to it (Python: `tokenizers.AddedToken`).
struct AddedToken {
  std::string content = {};
  bool single_word = false;  ///< only where no letter, digit or underscore touches it
  bool lstrip = false;       ///< takes the white space on its left
  bool rstrip = false;       ///< takes the white space on its right
  /// Looked for in the normalised (lower-cased) text; nullopt: unless it is special.
  std::optional<bool> normalized = std::nullopt;
  bool special = false;  ///< left out by `decode(..., {.skip_special_tokens = true})`
};

/// The arguments of Python's `CLIPTokenizer(...)`, and those of its base class that it uses.
struct CLIPTokenizerConfig {
  std::map<std::string, int64_t> vocab = {};  ///< token -> id; empty: the special tokens alone
  std::vector<std::pair<std::string, std::string>> merges = {};  ///< in the order of their rank
  AddedToken unk_token = {.content = "<|endoftext|>", .special = true};
  AddedToken bos_token = {.content = "<|startoftext|>", .special = true};
  AddedToken eos_token = {.content = "<|endoftext|>", .special = true};
  AddedToken pad_token = {.content = "<|endoftext|>", .special = true};
  std::vector<AddedToken> extra_special_tokens = {};
  /// CLIP has 77 positions; nullopt: no limit. A folder without `tokenizer_config.json` gets 77, too.
  std::optional<int64_t> model_max_length = 77;
  EnumChoice<TokenizerSide> padding_side = TokenizerSide::kRight;
  EnumChoice<TokenizerSide> truncation_side = TokenizerSide::kRight;
};

/// One text or several, in UTF-8.
class Texts {
 public:
  Texts() = default;
  Texts(const char* text) : values_{text} {}                            // NOLINT(google-explicit-constructor)
  Texts(std::string_view text) : values_{std::string(text)} {}          // NOLINT(google-explicit-constructor)
  Texts(std::string text) : values_{std::move(text)} {}                 // NOLINT(google-explicit-constructor)
  Texts(std::initializer_list<std::string> texts) : values_(texts) {}   // NOLINT(google-explicit-constructor)
  Texts(std::vector<std::string> texts) : values_(std::move(texts)) {}  // NOLINT(google-explicit-constructor)
  const std::vector<std::string>& values() const { return values_; }

 private:
  std::vector<std::string> values_;
};

/// How a tokenizer is called.
struct TokenizeOptions {
  bool add_special_tokens = true;  ///< the begin and the end token
  EnumChoice<Padding> padding = Padding::kDoNotPad;
  /// Cuts to `max_length`; nullopt: where `max_length` is given and nothing is padded.
  std::optional<bool> truncation = std::nullopt;
  std::optional<int64_t> max_length = std::nullopt;  ///< the tokenizer's `model_max_length` by default
  std::optional<int64_t> pad_to_multiple_of = std::nullopt;
  std::optional<EnumChoice<TokenizerSide>> padding_side = std::nullopt;
};

/// What a tokenizer makes of texts (Python: `BatchEncoding`).
struct BatchEncoding {
  Tensor input_ids;       ///< int64 `[B, L]`
  Tensor attention_mask;  ///< int64 `[B, L]`, 0 where padded
};

struct DecodeOptions {
  bool skip_special_tokens = false;
};

struct TokenizerLoadOptions {
  std::string subfolder = {};  ///< of the folder, e.g. "tokenizer"
};

/// The byte-level byte-pair encoding of CLIP (Radford et al. 2021; transformers `CLIPTokenizer`): NFC, white
/// space runs become one space, letters lower case by code point, then words, single digits and runs of other
/// characters are merged from their UTF-8 bytes by rank. Gives the ids that transformers gives. A value:
/// copies are cheap and independent; const calls may come from several threads.
class CLIPTokenizer {
 public:
  /// Python's class name.
  static std::string class_name() { return "CLIPTokenizer"; }

  /// @throws ConfigError if a merge names a token that the vocabulary lacks, or an id stands twice
  explicit CLIPTokenizer(const CLIPTokenizerConfig& config = {});

  /// Reads `tokenizer.json`, or where there is none `vocab.json` and `merges.txt`; and, where they exist,
  /// `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`.
  /// @throws FileError naming the file if one is missing or malformed, ConfigError for an option that cannot
  ///   work
  static CLIPTokenizer from_pretrained(const std::filesystem::path& folder,
                                       const TokenizerLoadOptions& options = {});
  /// Writes all of these files but `added_tokens.json`, whose content stands in the others. The folder is
  /// made if need be.
  /// @throws FileError
  void save_pretrained(const std::filesystem::path& folder) const;

  /// @return ids of one text or several: `tokenizer("a cat")`, `tokenizer({"a cat", "a dog"}, {.padding =
  ///   Padding::kMaxLength, .truncation = true})`
  /// @throws TextError if a text is not UTF-8, or if texts of unequal length are not padded or cut;
  /// ConfigError
  ///   for options that cannot work
  BatchEncoding operator()(const Texts& texts, const TokenizeOptions& options = {}) const;
  /// The ids of one text, not padded.
  /// @throws TextError if it is not UTF-8
  std::vector<int64_t> encode(std::string_view text, bool add_special_tokens = true) const;
  /// The tokens of one text, without begin and end, as the vocabulary spells them ("cat</w>").
  /// @throws TextError if it is not UTF-8
  std::vector<std::string> tokenize(std::string_view text) const;

  /// The text of some ids. Ids that no token has are passed over; bytes that are no UTF-8 become U+FFFD.
  std::string decode(const std::vector<int64_t>& ids, const DecodeOptions& options = {}) const;
  /// @param ids integral, 0-dim or `[L]`
  std::string decode(const Tensor& ids, const DecodeOptions& options = {}) const;
  /// @param ids integral `[B, L]`
  std::vector<std::string> batch_decode(const Tensor& ids, const DecodeOptions& options = {}) const;

  /// Adds tokens; a token that the vocabulary has keeps its id, others get the next free ones. The embedding
  /// of the text encoder has to grow with them (`resize_token_embeddings`).
  /// @return how many were added
  int64_t add_tokens(const std::vector<std::string>& tokens, bool special_tokens = false);
  int64_t add_tokens(std::initializer_list<AddedToken> tokens);

  /// The id of a token; that of the unknown token if there is none.
  int64_t convert_tokens_to_ids(std::string_view token) const;
  /// nullopt if no token has this id.
  std::optional<std::string> convert_ids_to_tokens(int64_t id) const;

  /// The number of tokens without, and with, the added ones.
  int64_t vocab_size() const;
  int64_t size() const;
  /// The most tokens that the model takes; the largest int64 where there is no limit.
  int64_t model_max_length() const;
  std::string bos_token() const;
  std::string eos_token() const;
  std::string unk_token() const;
  std::string pad_token() const;
  int64_t bos_token_id() const;
  int64_t eos_token_id() const;
  int64_t unk_token_id() const;
  int64_t pad_token_id() const;
  TokenizerSide padding_side() const;
  TokenizerSide truncation_side() const;

 private:
  int64_t add_entries(const std::vector<text::TokenEntry>& tokens);
  explicit CLIPTokenizer(std::shared_ptr<const text::CLIPTokenizerState> state);
  std::shared_ptr<const text::CLIPTokenizerState> state_;  ///< never changes; add_tokens makes another
};

}  // namespace diffusers

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

/// Padding of short sequences with the pad token.
enum class Padding {
  kLongest,    ///< to the longest sequence of the call
  kMaxLength,  ///< to `max_length`
  kDoNotPad    ///< no padding
};
/// Maps each enumerator to Python's string.
template <>
struct EnumNames<Padding> {
  static constexpr std::string_view kKey = "padding";
  static constexpr std::array<std::pair<Padding, std::string_view>, 3> kTable{
      {{Padding::kLongest, "longest"},
       {Padding::kMaxLength, "max_length"},
       {Padding::kDoNotPad, "do_not_pad"}}};
};

/// The end at which sequences are padded or cut.
enum class TokenizerSide {
  kRight,  ///< the end of the sequence
  kLeft    ///< the beginning of the sequence
};
/// Maps each enumerator to Python's string.
template <>
struct EnumNames<TokenizerSide> {
  static constexpr std::string_view kKey = "padding_side";
  static constexpr std::array<std::pair<TokenizerSide, std::string_view>, 2> kTable{
      {{TokenizerSide::kRight, "right"}, {TokenizerSide::kLeft, "left"}}};
};

/// A token that is cut out of the text before the text is split into words (Python: `tokenizers.AddedToken`).
struct AddedToken {
  std::string content = {};  ///< text of the token, UTF-8
  bool single_word = false;  ///< matches only if no letter, digit or underscore is next to it
  bool lstrip = false;       ///< removes the white space on its left
  bool rstrip = false;       ///< removes the white space on its right
  /// true: the token is searched in the normalised (lower-cased) text; false: in the text as given. nullopt:
  /// true unless the token is special.
  std::optional<bool> normalized = std::nullopt;
  bool special = false;  ///< `decode(..., {.skip_special_tokens = true})` leaves the token out
};

/// The arguments of Python's `CLIPTokenizer(...)`, and those of its base class that it uses.
struct CLIPTokenizerConfig {
  std::map<std::string, int64_t> vocab = {};  ///< token -> id; empty: only the special tokens
  std::vector<std::pair<std::string, std::string>> merges = {};  ///< pairs of tokens, in the order of rank
  AddedToken unk_token = {.content = "<|endoftext|>", .special = true};    ///< unknown token; not empty
  AddedToken bos_token = {.content = "<|startoftext|>", .special = true};  ///< begin token; not empty
  AddedToken eos_token = {.content = "<|endoftext|>", .special = true};    ///< end token; not empty
  AddedToken pad_token = {.content = "<|endoftext|>", .special = true};    ///< pad token; empty: no padding
  std::vector<AddedToken> extra_special_tokens = {};                       ///< other special tokens
  /// Largest number of tokens in a sequence; at least 1. nullopt: no limit. The default is that of CLIP.
  std::optional<int64_t> model_max_length = 77;
  EnumChoice<TokenizerSide> padding_side = TokenizerSide::kRight;     ///< "right" or "left"
  EnumChoice<TokenizerSide> truncation_side = TokenizerSide::kRight;  ///< "right" or "left"
};

/// One text or several, in UTF-8. Converts from a string and from a list of strings.
class Texts {
 public:
  /// Holds no text.
  Texts() = default;
  // NOLINTBEGIN(google-explicit-constructor): a text is written where texts are expected.
  /// Holds one text.
  /// @param text the text, terminated by 0
  Texts(const char* text) : values_{text} {}
  /// Holds one text.
  /// @param text the text
  Texts(std::string_view text) : values_{std::string(text)} {}
  /// Holds one text.
  /// @param text the text
  Texts(std::string text) : values_{std::move(text)} {}
  /// Holds several texts.
  /// @param texts the texts
  Texts(std::initializer_list<std::string> texts) : values_(texts) {}
  /// Holds several texts.
  /// @param texts the texts
  Texts(std::vector<std::string> texts) : values_(std::move(texts)) {}
  // NOLINTEND(google-explicit-constructor)
  /// @return the texts
  const std::vector<std::string>& values() const { return values_; }

 private:
  std::vector<std::string> values_;
};

/// The optional arguments of a tokenizer's call.
struct TokenizeOptions {
  bool add_special_tokens = true;                    ///< adds the begin and the end token
  EnumChoice<Padding> padding = Padding::kDoNotPad;  ///< padding of short sequences
  /// Cuts sequences to `max_length`. nullopt: true if `max_length` is given and padding is kDoNotPad.
  std::optional<bool> truncation = std::nullopt;
  /// Length for padding and truncation, with the special tokens. nullopt: the tokenizer's `model_max_length`.
  std::optional<int64_t> max_length = std::nullopt;
  std::optional<int64_t> pad_to_multiple_of = std::nullopt;  ///< rounds padded lengths up; nullopt: off
  /// End at which sequences are padded; nullopt: the tokenizer's `padding_side`.
  std::optional<EnumChoice<TokenizerSide>> padding_side = std::nullopt;
};

/// The result of a tokenizer's call (Python: `BatchEncoding`).
struct BatchEncoding {
  Tensor input_ids;       ///< int64 `[B, L]`
  Tensor attention_mask;  ///< int64 `[B, L]`, 1 for tokens and 0 for padding
};

/// The optional arguments of `CLIPTokenizer::decode`.
struct DecodeOptions {
  bool skip_special_tokens = false;  ///< leaves out special tokens, such as begin, end and padding
};

/// The optional arguments of `CLIPTokenizer::from_pretrained`.
struct TokenizerLoadOptions {
  std::string subfolder = {};  ///< subfolder that holds the files, such as "tokenizer"
};

/// The byte-level byte-pair encoding of CLIP (Radford et al. 2021; transformers `CLIPTokenizer`). It returns
/// the ids that transformers returns.
///  1. The text is normalised: NFC, one space for each run of white space, lower case by code point.
///  2. The text is split into words, single digits and runs of other characters.
///  3. The UTF-8 bytes of each word are merged by rank.
///
/// A tokenizer is a value: copies are cheap and independent. Const calls are thread-safe.
class CLIPTokenizer {
 public:
  /// @return Python's class name
  static std::string class_name() { return "CLIPTokenizer"; }

  /// Makes a tokenizer.
  /// @param config vocabulary, merges and special tokens
  /// @throws ConfigError if a merge names a token that the vocabulary lacks, if two tokens have the same id,
  ///   or naming an option that is not valid
  explicit CLIPTokenizer(const CLIPTokenizerConfig& config = {});

  /// Loads a tokenizer from the files of a folder. The vocabulary comes from `tokenizer.json`; if it does not
  /// exist, from `vocab.json` and `merges.txt`. `tokenizer_config.json`, `special_tokens_map.json` and
  /// `added_tokens.json` are read if they exist. model_max_length is 77 if no file states it.
  /// @param folder a tokenizer folder, or a pipeline folder with `options.subfolder`
  /// @param options the subfolder
  /// @return the tokenizer
  /// @throws FileError naming the file if one is missing or malformed
  /// @throws ConfigError if an option of a file is not valid, or if the files are those of another tokenizer
  static CLIPTokenizer from_pretrained(const std::filesystem::path& folder,
                                       const TokenizerLoadOptions& options = {});
  /// Writes `vocab.json`, `merges.txt`, `special_tokens_map.json`, `tokenizer_config.json` and
  /// `tokenizer.json`. Removes `added_tokens.json`, whose content is in the other files.
  /// @param folder is created if it does not exist
  /// @throws FileError if a file cannot be written
  void save_pretrained(const std::filesystem::path& folder) const;

  /// Computes the ids of texts: `tokenizer("a cat")`, `tokenizer({"a cat", "a dog"}, {.padding =
  /// Padding::kMaxLength, .truncation = true})`. A text longer than model_max_length that is not cut causes a
  /// warning.
  /// @param texts B texts in UTF-8
  /// @param options special tokens, padding and truncation
  /// @return ids and mask, `[B, L]`
  /// @throws TextError if a text is not UTF-8, or if the sequences of a call have unequal lengths
  /// @throws ConfigError naming an option that is not valid
  BatchEncoding operator()(const Texts& texts, const TokenizeOptions& options = {}) const;
  /// Computes the ids of one text, without padding and truncation.
  /// @param text in UTF-8
  /// @param add_special_tokens adds the begin and the end token
  /// @return the ids
  /// @throws TextError if the text is not UTF-8
  std::vector<int64_t> encode(std::string_view text, bool add_special_tokens = true) const;
  /// Splits one text into tokens, without begin and end token.
  /// @param text in UTF-8
  /// @return the tokens as the vocabulary spells them, such as "cat</w>"
  /// @throws TextError if the text is not UTF-8
  std::vector<std::string> tokenize(std::string_view text) const;

  /// Computes the text of ids. Unknown ids are skipped. Bytes that are not UTF-8 become U+FFFD.
  /// @param ids the ids
  /// @param options treatment of special tokens
  /// @return the text, without white space at its ends
  std::string decode(const std::vector<int64_t>& ids, const DecodeOptions& options = {}) const;
  /// Computes the text of ids in a tensor.
  /// @param ids integral, 0-dim or `[L]`
  /// @param options treatment of special tokens
  /// @return the text, without white space at its ends
  /// @throws TensorError if shape or dtype does not fit
  std::string decode(const Tensor& ids, const DecodeOptions& options = {}) const;
  /// Computes the text of each row.
  /// @param ids integral `[B, L]`
  /// @param options treatment of special tokens
  /// @return B texts
  /// @throws TensorError if shape or dtype does not fit
  std::vector<std::string> batch_decode(const Tensor& ids, const DecodeOptions& options = {}) const;

  /// Adds tokens. A token of the vocabulary keeps its id; other tokens get the next free ids. The embedding
  /// of the text encoder must grow to `size()` (`resize_token_embeddings`).
  /// @param tokens texts of the tokens, UTF-8
  /// @param special_tokens marks the tokens as special
  /// @return number of tokens that were added or changed
  /// @throws TextError if a token is not UTF-8
  int64_t add_tokens(const std::vector<std::string>& tokens, bool special_tokens = false);
  /// Adds tokens with flags.
  /// @param tokens the tokens
  /// @return number of tokens that were added or changed
  /// @throws TextError if a token is not UTF-8
  int64_t add_tokens(std::initializer_list<AddedToken> tokens);

  /// Looks up the id of a token.
  /// @param token as the vocabulary spells it
  /// @return the id; that of `unk_token()` for an unknown token
  int64_t convert_tokens_to_ids(std::string_view token) const;
  /// Looks up the token of an id.
  /// @param id the id
  /// @return the token; nullopt for an unknown id
  std::optional<std::string> convert_ids_to_tokens(int64_t id) const;

  /// @return number of tokens without added tokens
  int64_t vocab_size() const;
  /// @return number of tokens with added tokens
  int64_t size() const;
  /// @return largest number of tokens in a sequence; the largest int64 without a limit
  int64_t model_max_length() const;
  /// @return text of the begin token
  std::string bos_token() const;
  /// @return text of the end token
  std::string eos_token() const;
  /// @return text of the unknown token
  std::string unk_token() const;
  /// @return text of the pad token; empty without one
  std::string pad_token() const;
  /// @return id of the begin token
  int64_t bos_token_id() const;
  /// @return id of the end token
  int64_t eos_token_id() const;
  /// @return id of the unknown token
  int64_t unk_token_id() const;
  /// @return id of the pad token; that of the unknown token without one
  int64_t pad_token_id() const;
  /// @return end at which sequences are padded by default
  TokenizerSide padding_side() const;
  /// @return end at which sequences are cut
  TokenizerSide truncation_side() const;

 private:
  int64_t add_entries(const std::vector<text::TokenEntry>& tokens);
  explicit CLIPTokenizer(std::shared_ptr<const text::CLIPTokenizerState> state);
  std::shared_ptr<const text::CLIPTokenizerState> state_;  ///< immutable; add_tokens replaces it
};

}  // namespace diffusers

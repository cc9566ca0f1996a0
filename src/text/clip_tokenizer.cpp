#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include <diffusers/core/logging.h>
#include <diffusers/text/clip_tokenizer.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "io/open_model_file.h"
#include "text/clip_tokenizer_state.h"
#include "text/clip_words.h"
#include "text/unicode.h"

namespace diffusers {
inline namespace internal {
namespace text {

TokenEntry special_token(std::string_view content) {
  return {.content = std::string(content), .normalized = false, .special = true};
}

CLIPTokenizerState::CLIPTokenizerState(Vocabulary vocabulary,
                                       const std::map<int64_t, TokenEntry>& added_tokens,
                                       SpecialTokens special_tokens, TokenizerSettings tokenizer_settings)
    : model(std::make_shared<const BytePairEncoding>(std::move(vocabulary), special_tokens.unk.content)),
      special(std::move(special_tokens)),
      settings(std::move(tokenizer_settings)) {
  std::vector<TokenEntry> wanted{special.bos, special.eos, special.unk, special.pad};
  wanted.insert(wanted.end(), special.named.begin(), special.named.end());
  std::set<std::string> names;
  for (const auto& token : wanted) names.insert(token.content);
  wanted.insert(wanted.end(), special.extra.begin(), special.extra.end());

  // Python's order, which determines the ids. For duplicate tokens the flags of the last one count.
  std::vector<TokenEntry> tokens;
  std::set<std::string> from_file;
  for (const auto& [id, token] : added_tokens) {
    tokens.push_back(token);
    from_file.insert(token.content);
  }
  for (const auto& token : wanted)
    if (!from_file.contains(token.content)) tokens.push_back(token);
  for (auto& token : tokens) token.special = token.special || names.contains(token.content);
  added.add(tokens, *model);
  for (const auto& [id, token] : added_tokens) {
    const auto given = added.token_to_id(token.content);
    if (given && *given != id)
      log_message(
          LogLevel::kWarning,
          fmt::format("the added token {} has the id {} in its file, and {} after the tokens that are there",
                      escaped(token.content), id, *given));
  }
}

int64_t CLIPTokenizerState::id_of(std::string_view token) const {
  if (const auto id = added.token_to_id(token)) return *id;
  if (const auto id = model->token_to_id(token)) return *id;
  return added.token_to_id(special.unk.content).value_or(0);
}

std::optional<std::string> CLIPTokenizerState::token_of(int64_t id) const {
  const auto token = added.id_to_token(id);
  return token ? token : model->id_to_token(id);
}

void CLIPTokenizerState::encode(std::string_view text, std::vector<int64_t>& ids,
                                std::vector<std::string>* matched) const {
  added.split(
      text, settings.split_special_tokens,
      [&](int64_t id, std::string_view match) {
        ids.push_back(id);
        if (matched != nullptr) matched->emplace_back(match);
      },
      [&](std::string_view piece) {
        for (const auto word : split_into_words(piece)) {
          const auto before = ids.size();
          model->encode(word, ids);
          for (auto i = before; matched != nullptr && i < ids.size(); ++i)
            matched->push_back(model->id_to_token(ids[i]).value_or(special.unk.content));
        }
      });
}

int64_t CLIPTokenizerState::size() const {
  const auto& tokens = added.tokens();
  const auto is_new = [&](const auto& item) { return !model->token_to_id(item.second.content); };
  return model->size() + std::count_if(tokens.begin(), tokens.end(), is_new);
}

}  // namespace text
}  // namespace internal

namespace {

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

text::TokenEntry entry_of(const AddedToken& token) {
  return {.content = token.content,
          .single_word = token.single_word,
          .lstrip = token.lstrip,
          .rstrip = token.rstrip,
          .normalized = token.normalized.value_or(!token.special),
          .special = token.special};
}

text::CLIPTokenizerState state_of_config(const CLIPTokenizerConfig& config) {
  require<ConfigError>(!config.unk_token.content.empty(), "unk_token is empty");
  require<ConfigError>(!config.bos_token.content.empty(), "bos_token is empty");
  require<ConfigError>(!config.eos_token.content.empty(), "eos_token is empty");
  require<ConfigError>(!config.model_max_length || *config.model_max_length > 0,
                       "model_max_length is {}, expected a positive number",
                       config.model_max_length.value_or(0));
  text::Vocabulary vocabulary{.tokens = config.vocab, .merges = config.merges};
  if (vocabulary.tokens.empty()) {
    vocabulary.tokens[config.bos_token.content] = 0;
    vocabulary.tokens[config.eos_token.content] = 1;
    if (!config.pad_token.content.empty()) vocabulary.tokens[config.pad_token.content] = 2;
  }
  text::SpecialTokens special{.bos = entry_of(config.bos_token),
                              .eos = entry_of(config.eos_token),
                              .unk = entry_of(config.unk_token),
                              .pad = entry_of(config.pad_token),
                              .named = {},
                              .extra = {}};
  for (const auto& token : config.extra_special_tokens) {
    special.extra.push_back(entry_of(token));
    special.extra.back().special = true;
  }
  return {std::move(vocabulary),
          {},
          std::move(special),
          {.model_max_length = config.model_max_length,
           .padding_side = config.padding_side,
           .truncation_side = config.truncation_side,
           .split_special_tokens = false,
           .source = {}}};
}

/// The lengths of a call, and the padding and truncation that give them.
struct LengthPlan {
  Padding padding = Padding::kDoNotPad;
  bool truncation = false;
  std::optional<int64_t> max_length;
};

/// Implements Python's `_get_padding_truncation_strategies`.
LengthPlan plan_lengths(const TokenizeOptions& options, const text::CLIPTokenizerState& state) {
  LengthPlan plan{.padding = options.padding,
                  .truncation = options.truncation.value_or(options.max_length.has_value() &&
                                                            options.padding == Padding::kDoNotPad),
                  .max_length = options.max_length};
  if (!plan.max_length && (plan.truncation || plan.padding == Padding::kMaxLength)) {
    plan.max_length = state.settings.model_max_length;
    if (!plan.max_length) {
      warn_once(
          "the tokenizer has no model_max_length and the call no max_length: nothing is cut, or padded to "
          "it");
      plan.truncation = false;
      if (plan.padding == Padding::kMaxLength) plan.padding = Padding::kDoNotPad;
    }
  }
  const int64_t least = options.add_special_tokens ? 2 : 0;
  require<ConfigError>(!plan.max_length || *plan.max_length >= least,
                       "max_length is {}, expected at least {}, which the begin and the end token take",
                       plan.max_length.value_or(0), least);
  require<ConfigError>(plan.padding == Padding::kDoNotPad || !state.special.pad.content.empty(),
                       "padding is \"{}\", but the tokenizer has no pad_token", enum_name(plan.padding));
  const auto multiple = options.pad_to_multiple_of;
  require<ConfigError>(!multiple || *multiple > 0, "pad_to_multiple_of is {}, expected a positive number",
                       multiple.value_or(0));
  require<ConfigError>(!(plan.truncation && plan.padding != Padding::kDoNotPad && multiple &&
                         plan.max_length && *plan.max_length % *multiple != 0),
                       "max_length is {}, expected a multiple of pad_to_multiple_of, {}",
                       plan.max_length.value_or(0), multiple.value_or(0));
  return plan;
}

/// Returns the length to which texts are padded; 0 for no padding.
int64_t padded_length(const LengthPlan& plan, const TokenizeOptions& options,
                      const std::vector<std::vector<int64_t>>& rows) {
  if (plan.padding == Padding::kDoNotPad) return 0;
  int64_t length = plan.padding == Padding::kMaxLength ? *plan.max_length : 0;
  if (plan.padding == Padding::kLongest)
    for (const auto& row : rows) length = std::max(length, static_cast<int64_t>(row.size()));
  if (const auto multiple = options.pad_to_multiple_of; multiple && length % *multiple != 0)
    length += *multiple - length % *multiple;
  return length;
}

void cut(std::vector<int64_t>& ids, int64_t most, TokenizerSide side) {
  const auto excess = static_cast<int64_t>(ids.size()) - most;
  if (excess <= 0) return;
  if (side == TokenizerSide::kRight) {
    ids.resize(static_cast<std::size_t>(most));
  } else {
    ids.erase(ids.begin(), ids.begin() + excess);
  }
}

Tensor tensor_of(const std::vector<std::vector<int64_t>>& rows) {
  const auto length = rows.empty() ? std::size_t{0} : rows.front().size();
  auto tensor = at::empty({static_cast<int64_t>(rows.size()), static_cast<int64_t>(length)}, at::kLong);
  auto* data = tensor.mutable_data_ptr<int64_t>();
  for (const auto& row : rows) data = std::copy(row.begin(), row.end(), data);
  return tensor;
}

std::vector<int64_t> ids_of(const Tensor& ids) {
  require<TensorError>(
      ids.defined() && ids.dim() <= 1 && at::isIntegralType(ids.scalar_type(), /*includeBool=*/false),
      "ids: expected integers [L], got {}", describe(ids));
  const auto flat = ids.reshape({-1}).to(at::kCPU, at::kLong).contiguous();
  const auto* data = flat.const_data_ptr<int64_t>();
  return {data, data + flat.numel()};
}

/// Implements Python's `str.strip()`.
std::string strip(const std::string& text) {
  const auto code_points = text::decode_utf8(text);
  const auto is_blank = [](char32_t c) { return text::is_space(c) || (c >= 0x1C && c <= 0x1F); };
  const auto begin = std::find_if_not(code_points.begin(), code_points.end(), is_blank);
  const auto end = std::find_if_not(code_points.rbegin(), std::make_reverse_iterator(begin), is_blank).base();
  return text::encode_utf8({begin, end});
}

}  // namespace

CLIPTokenizer::CLIPTokenizer(const CLIPTokenizerConfig& config)
    : state_(std::make_shared<const text::CLIPTokenizerState>(state_of_config(config))) {}

CLIPTokenizer::CLIPTokenizer(std::shared_ptr<const text::CLIPTokenizerState> state)
    : state_(std::move(state)) {}

CLIPTokenizer CLIPTokenizer::from_pretrained(const std::filesystem::path& folder,
                                             const TokenizerLoadOptions& options) {
  const auto path = folder_inside(folder.string(), options.subfolder);
  return CLIPTokenizer(std::make_shared<const text::CLIPTokenizerState>(text::read_clip_tokenizer(path)));
}

void CLIPTokenizer::save_pretrained(const std::filesystem::path& folder) const {
  text::write_clip_tokenizer(*state_, folder);
}

BatchEncoding CLIPTokenizer::operator()(const Texts& texts, const TokenizeOptions& options) const {
  const auto plan = plan_lengths(options, *state_);
  std::vector<std::vector<int64_t>> rows;
  for (const auto& text : texts.values()) {
    auto& ids = rows.emplace_back();
    state_->encode(text, ids);
    if (plan.truncation)
      cut(ids, *plan.max_length - (options.add_special_tokens ? 2 : 0), state_->settings.truncation_side);
    if (options.add_special_tokens) {
      ids.insert(ids.begin(), bos_token_id());
      ids.push_back(eos_token_id());
    }
    if (!options.max_length && static_cast<int64_t>(ids.size()) > model_max_length())
      warn_once(fmt::format("a text has {} tokens, the model takes {}; .truncation = true cuts it",
                            ids.size(), model_max_length()));
  }

  const auto length = padded_length(plan, options, rows);
  const auto side = options.padding_side.value_or(state_->settings.padding_side);
  std::vector<std::vector<int64_t>> masks;
  for (auto& ids : rows) {
    auto& mask = masks.emplace_back(ids.size(), 1);
    const auto missing = length - static_cast<int64_t>(ids.size());
    if (missing <= 0) continue;
    const bool right = side == TokenizerSide::kRight;
    ids.insert(right ? ids.end() : ids.begin(), static_cast<std::size_t>(missing), pad_token_id());
    mask.insert(right ? mask.end() : mask.begin(), static_cast<std::size_t>(missing), 0);
  }
  for (std::size_t i = 1; i < rows.size(); ++i)
    require<TextError>(rows[i].size() == rows[0].size(),
                       "text 0 has {} tokens and text {} has {}; one tensor holds them where they are padded "
                       "(.padding = Padding::kLongest or kMaxLength) and cut (.truncation = true)",
                       rows[0].size(), i, rows[i].size());
  return {.input_ids = tensor_of(rows), .attention_mask = tensor_of(masks)};
}

std::vector<int64_t> CLIPTokenizer::encode(std::string_view text, bool add_special_tokens) const {
  std::vector<int64_t> ids;
  if (add_special_tokens) ids.push_back(bos_token_id());
  state_->encode(text, ids);
  if (add_special_tokens) ids.push_back(eos_token_id());
  return ids;
}

std::vector<std::string> CLIPTokenizer::tokenize(std::string_view text) const {
  std::vector<int64_t> ids;
  std::vector<std::string> tokens;
  state_->encode(text, ids, &tokens);
  return tokens;
}

std::string CLIPTokenizer::decode(const std::vector<int64_t>& ids, const DecodeOptions& options) const {
  std::string bytes;
  for (const auto id : ids) {
    const auto token = state_->token_of(id);
    if (!token || (options.skip_special_tokens && state_->added.is_special(*token))) continue;
    bytes += text::ByteAlphabet::instance().bytes_of(*token);
  }
  auto text = text::replace_invalid_utf8(bytes);
  constexpr std::string_view kEndOfWord = "</w>";
  for (auto at = text.find(kEndOfWord); at != std::string::npos; at = text.find(kEndOfWord, at + 1))
    text.replace(at, kEndOfWord.size(), " ");
  return strip(text);
}

std::string CLIPTokenizer::decode(const Tensor& ids, const DecodeOptions& options) const {
  return decode(ids_of(ids), options);
}

std::vector<std::string> CLIPTokenizer::batch_decode(const Tensor& ids, const DecodeOptions& options) const {
  require<TensorError>(ids.defined() && ids.dim() == 2, "ids: expected integers [B, L], got {}",
                       describe(ids));
  std::vector<std::string> texts;
  for (int64_t i = 0; i < ids.size(0); ++i) texts.push_back(decode(ids[i], options));
  return texts;
}

int64_t CLIPTokenizer::add_entries(const std::vector<text::TokenEntry>& tokens) {
  auto state = std::make_shared<text::CLIPTokenizerState>(*state_);
  const auto count = state->added.add(tokens, *state->model);
  state_ = std::move(state);
  return count;
}

int64_t CLIPTokenizer::add_tokens(std::initializer_list<AddedToken> tokens) {
  std::vector<text::TokenEntry> entries;
  for (const auto& token : tokens) entries.push_back(entry_of(token));
  return add_entries(entries);
}

int64_t CLIPTokenizer::add_tokens(const std::vector<std::string>& tokens, bool special_tokens) {
  std::vector<text::TokenEntry> entries;
  for (const auto& token : tokens)
    entries.push_back({.content = token, .normalized = !special_tokens, .special = special_tokens});
  return add_entries(entries);
}

int64_t CLIPTokenizer::convert_tokens_to_ids(std::string_view token) const { return state_->id_of(token); }

std::optional<std::string> CLIPTokenizer::convert_ids_to_tokens(int64_t id) const {
  return state_->token_of(id);
}

int64_t CLIPTokenizer::vocab_size() const { return state_->model->size(); }
int64_t CLIPTokenizer::size() const { return state_->size(); }
int64_t CLIPTokenizer::model_max_length() const {
  return state_->settings.model_max_length.value_or(kNoLimit);
}
std::string CLIPTokenizer::bos_token() const { return state_->special.bos.content; }
std::string CLIPTokenizer::eos_token() const { return state_->special.eos.content; }
std::string CLIPTokenizer::unk_token() const { return state_->special.unk.content; }
std::string CLIPTokenizer::pad_token() const { return state_->special.pad.content; }
int64_t CLIPTokenizer::bos_token_id() const { return state_->id_of(state_->special.bos.content); }
int64_t CLIPTokenizer::eos_token_id() const { return state_->id_of(state_->special.eos.content); }
int64_t CLIPTokenizer::unk_token_id() const { return state_->id_of(state_->special.unk.content); }
int64_t CLIPTokenizer::pad_token_id() const { return state_->id_of(state_->special.pad.content); }
TokenizerSide CLIPTokenizer::padding_side() const { return state_->settings.padding_side; }
TokenizerSide CLIPTokenizer::truncation_side() const { return state_->settings.truncation_side; }

}  // namespace diffusers

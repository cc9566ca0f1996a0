// Reads and writes the files of a tokenizer's folder, with the precedence of transformers.

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include <diffusers/core/logging.h>
#include <diffusers/io/files.h>

#include "core/config_json.h"
#include "core/json.h"
#include "core/require.h"
#include "io/open_model_file.h"
#include "text/clip_tokenizer_state.h"

namespace diffusers {
inline namespace internal {
namespace text {
namespace {

constexpr const char* kTokenizerFile = "tokenizer.json";
constexpr const char* kVocabularyFile = "vocab.json";
constexpr const char* kMergesFile = "merges.txt";
constexpr const char* kConfigFile = "tokenizer_config.json";
constexpr const char* kSpecialTokensFile = "special_tokens_map.json";
constexpr const char* kAddedTokensFile = "added_tokens.json";

constexpr std::string_view kEndOfText = "<|endoftext|>";
constexpr std::string_view kStartOfText = "<|startoftext|>";
/// Number of positions of CLIP's text encoder, the default if a folder has no model_max_length.
constexpr int64_t kPositionsOfClip = 77;
/// Larger values mean no limit: Python writes 10^30 in this case.
constexpr double kLargestLimit = 1e18;

constexpr std::string_view kPattern =
    R"(<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+)";

std::string path_in(const std::filesystem::path& folder, const char* name) {
  return (folder / name).string();
}

/// Reads the JSON object of a file; an empty object if there is no such file.
Json read_object(const std::filesystem::path& folder, const char* name) {
  const auto path = path_in(folder, name);
  if (!file_exists(path)) return Json::object();
  auto json = parse_json(read_model_file(folder.string(), name, kMaxJsonBytes), path);
  require<FileError>(json.is_object(), "{}: expected a JSON object", path);
  return json;
}

/// Reads vocabulary and merges from the existing files, and the added tokens of tokenizer.json.
TokenizerFile read_vocabulary(const std::filesystem::path& folder) {
  if (const auto path = path_in(folder, kTokenizerFile); file_exists(path))
    return parse_tokenizer_json(read_model_file(folder.string(), kTokenizerFile, kMaxVocabularyBytes), path);
  const auto vocabulary = path_in(folder, kVocabularyFile);
  const auto merges = path_in(folder, kMergesFile);
  require<FileError>(file_exists(vocabulary) && file_exists(merges),
                     "{}: expected {}, or {} and {}; there is no {}", folder.string(), kTokenizerFile,
                     kVocabularyFile, kMergesFile, file_exists(vocabulary) ? kMergesFile : kVocabularyFile);
  TokenizerFile file;
  const auto read = [&](const char* name) {
    return read_model_file(folder.string(), name, kMaxVocabularyBytes);
  };
  file.vocabulary.tokens = parse_vocabulary(read(kVocabularyFile), vocabulary);
  const std::string lines = read(kMergesFile);
  require<FileError>(!lines.empty(), "{}: the file is empty; copy or download it again", merges);
  file.vocabulary.merges = parse_merges(lines, merges);
  return file;
}

/// Parses a special token of tokenizer_config.json or special_tokens_map.json.
TokenEntry special_from_json(const Json& json, std::string_view key, std::string_view where) {
  auto token = parse_token(json, key, where);
  if (json.is_string()) return special_token(token.content);
  token.special = true;
  return token;
}

SpecialTokens read_special_tokens(const Json& config, const std::string& where) {
  const auto named = [&](const char* key, std::string_view fallback) {
    const auto found = config.find(key);
    if (found == config.end()) return special_token(fallback);
    auto token = special_from_json(*found, key, where);
    require<FileError>(!token.content.empty(), "{}: {} is empty", where, key);
    return token;
  };
  SpecialTokens special{.bos = named("bos_token", kStartOfText),
                        .eos = named("eos_token", kEndOfText),
                        .unk = named("unk_token", kEndOfText),
                        .pad = {},
                        .named = {},
                        .extra = {}};
  const auto pad = config.find("pad_token");
  if (pad == config.end() || !pad->is_null()) special.pad = named("pad_token", kEndOfText);
  constexpr std::array<std::string_view, 4> kKnown{"bos_token", "eos_token", "unk_token", "pad_token"};
  for (const auto& [key, value] : config.items()) {
    const bool is_known = std::find(kKnown.begin(), kKnown.end(), key) != kKnown.end();
    const bool is_token = value.is_string() || (value.is_object() && value.contains("content"));
    if (key.ends_with("_token") && !is_known && is_token)
      special.named.push_back(special_from_json(value, key, where));
  }
  for (const char* key : {"extra_special_tokens", "additional_special_tokens"}) {
    const auto found = config.find(key);
    if (found == config.end() || found->is_null() || found->empty()) continue;
    require<FileError>(found->is_structured(), "{}: {} is no list", where, key);
    for (const auto& [name, value] : found->items()) {
      auto token = parse_token(value, key, where);
      special.extra.push_back(value.is_string() ? special_token(token.content) : std::move(token));
    }
    break;
  }
  return special;
}

TokenizerSide read_side(const Json& config, const char* key, const std::string& where) {
  auto side = TokenizerSide::kRight;
  const auto found = config.find(key);
  if (found == config.end()) return side;
  try {
    config_json::from(*found, side, key);
  } catch (const ConfigError& error) {
    fail<ConfigError>("{}: {}", where, error.what());
  }
  return side;
}

bool config_flag(const Json& config, const char* key, const std::string& where) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return false;
  require<ConfigError>(found->is_boolean(), "{}: {} is {}, expected true or false", where, key,
                       found->dump());
  return found->get<bool>();
}

TokenizerSettings read_settings(const Json& config, const std::string& where) {
  TokenizerSettings settings{.model_max_length = kPositionsOfClip,
                             .padding_side = read_side(config, "padding_side", where),
                             .truncation_side = read_side(config, "truncation_side", where),
                             .split_special_tokens = config_flag(config, "split_special_tokens", where),
                             .source = config.empty() ? "" : config.dump()};
  for (const char* key : {"model_max_length", "max_len"}) {
    const auto found = config.find(key);
    if (found == config.end() || found->is_null()) continue;
    const double number = found->is_number() ? found->get<double>() : 0;
    require<ConfigError>(number >= 1 && (number > kLargestLimit || std::trunc(number) == number),
                         "{}: {} is {}, expected a positive integer", where, key, found->dump());
    settings.model_max_length.reset();
    if (number <= kLargestLimit) settings.model_max_length = static_cast<int64_t>(number);
    break;
  }
  return settings;
}

/// Checks the tokenizer class. Other classes have files of the same names but split texts differently.
void check_tokenizer_class(const Json& config, const std::string& where) {
  constexpr std::array<std::string_view, 16> kOthers{
      "AlbertTokenizer",  "BartTokenizer",       "BertTokenizer",    "BlenderbotTokenizer",
      "ByT5Tokenizer",    "CodeGenTokenizer",    "GPT2Tokenizer",    "GemmaTokenizer",
      "LlamaTokenizer",   "LongformerTokenizer", "MBartTokenizer",   "Qwen2Tokenizer",
      "RobertaTokenizer", "T5Tokenizer",         "WhisperTokenizer", "XLMRobertaTokenizer"};
  const auto found = config.find("tokenizer_class");
  if (found == config.end() || found->is_null()) return;
  require<ConfigError>(found->is_string(), "{}: tokenizer_class is {}, expected \"CLIPTokenizer\"", where,
                       json_excerpt(*found));
  std::string_view name = found->get_ref<const std::string&>();
  if (name.ends_with("Fast")) name.remove_suffix(4);
  if (name == "CLIPTokenizer") return;
  require<ConfigError>(std::find(kOthers.begin(), kOthers.end(), name) == kOthers.end(),
                       "{}: these are the files of a {}, expected those of a CLIPTokenizer", where,
                       found->get<std::string>());
  warn_once(fmt::format("{}: written for {}, loaded as CLIPTokenizer", where, json_excerpt(*found)));
}

/// Reads tokenizer_config.json merged with special_tokens_map.json. Also collects the tokens that these
/// files, added_tokens.json or tokenizer.json add.
Json read_config(const std::filesystem::path& folder, std::map<int64_t, TokenEntry>& added_tokens) {
  auto config = read_object(folder, kConfigFile);
  const auto where = path_in(folder, kConfigFile);
  if (const auto decoder = config.find("added_tokens_decoder"); decoder != config.end()) {
    require<FileError>(decoder->is_object(), "{}: added_tokens_decoder is no object", where);
    added_tokens.clear();
    for (const auto& [id, token] : decoder->items()) {
      require<FileError>(token.is_object(), "{}: added_tokens_decoder: {} is no object", where,
                         token.type_name());
      added_tokens.insert_or_assign(parse_token_id(id, where),
                                    parse_token(token, "added_tokens_decoder", where));
    }
    return config;
  }
  const auto special = read_object(folder, kSpecialTokensFile);
  for (const auto& [key, value] : special.items()) config[key] = value;
  const auto added_path = path_in(folder, kAddedTokensFile);
  std::map<int64_t, TokenEntry> from_file;
  const auto added = read_object(folder, kAddedTokensFile);
  for (const auto& [content, id] : added.items())
    from_file.insert_or_assign(parse_token_id(id, content, added_path), TokenEntry{.content = content});
  for (auto& [id, token] : from_file) {
    const auto is_it = [&, &wanted = token](const Json& value) {
      return value == wanted.content ||
             (value.is_object() && value.value("content", Json()) == wanted.content);
    };
    for (const auto& [key, value] : config.items())
      token.special = token.special || (key.ends_with("_token") && is_it(value)) ||
                      (key.ends_with("special_tokens") && std::any_of(value.begin(), value.end(), is_it));
    token.normalized = !token.special;
    added_tokens.emplace(id, token);
  }
  return config;
}

Json token_to_json(const TokenEntry& token) {
  return {{"content", token.content}, {"single_word", token.single_word}, {"lstrip", token.lstrip},
          {"rstrip", token.rstrip},   {"normalized", token.normalized},   {"special", token.special}};
}

/// Writes a special token as a string if Python makes the same token of it, else with its flags.
Json special_to_json(const TokenEntry& token) {
  if (token_to_json(token) == token_to_json(special_token(token.content))) return token.content;
  auto json = token_to_json(token);
  json["__type"] = "AddedToken";
  return json;
}

Json config_to_json(const CLIPTokenizerState& state) {
  auto config = state.settings.source.empty() ? Json::object() : Json::parse(state.settings.source);
  config["tokenizer_class"] = "CLIPTokenizer";
  config["bos_token"] = special_to_json(state.special.bos);
  config["eos_token"] = special_to_json(state.special.eos);
  config["unk_token"] = special_to_json(state.special.unk);
  config["pad_token"] = state.special.pad.content.empty() ? Json() : special_to_json(state.special.pad);
  if (!state.special.extra.empty()) {
    config.erase("additional_special_tokens");
    auto& extra = config["extra_special_tokens"] = Json::array();
    for (const auto& token : state.special.extra) extra.push_back(special_to_json(token));
  }
  config["model_max_length"] =
      state.settings.model_max_length ? Json(*state.settings.model_max_length) : Json(1e30);
  config["padding_side"] = enum_name(state.settings.padding_side);
  config["truncation_side"] = enum_name(state.settings.truncation_side);
  auto& added = config["added_tokens_decoder"] = Json::object();
  for (const auto& [id, token] : state.added.tokens()) added[std::to_string(id)] = token_to_json(token);
  return config;
}

Json special_tokens_to_json(const SpecialTokens& special) {
  Json json = {{"bos_token", special.bos.content},
               {"eos_token", special.eos.content},
               {"unk_token", special.unk.content}};
  if (!special.pad.content.empty()) json["pad_token"] = special.pad.content;
  return json;
}

Json tokenizer_to_json(const CLIPTokenizerState& state) {
  const auto& special = state.special;
  auto added = Json::array();
  for (const auto& [id, token] : state.added.tokens()) {
    added.push_back(token_to_json(token));
    added.back()["id"] = id;
  }
  const auto byte_level = [](bool add_prefix_space) {
    return Json{{"type", "ByteLevel"},
                {"add_prefix_space", add_prefix_space},
                {"trim_offsets", true},
                {"use_regex", true}};
  };
  const Json normalizers = {{{"type", "NFC"}},
                            {{"type", "Replace"}, {"pattern", {{"Regex", "\\s+"}}}, {"content", " "}},
                            {{"type", "Lowercase"}}};
  const Json split = {
      {"type", "Split"}, {"pattern", {{"Regex", kPattern}}}, {"behavior", "Removed"}, {"invert", true}};
  Json json = Json::object();
  json["version"] = "1.0";
  json["truncation"] = nullptr;
  json["padding"] = nullptr;
  json["added_tokens"] = std::move(added);
  json["normalizer"] = {{"type", "Sequence"}, {"normalizers", normalizers}};
  json["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", Json::array({split, byte_level(false)})}};
  json["post_processor"] = {{"type", "RobertaProcessing"},
                            {"sep", Json::array({special.eos.content, state.id_of(special.eos.content)})},
                            {"cls", Json::array({special.bos.content, state.id_of(special.bos.content)})},
                            {"trim_offsets", false},
                            {"add_prefix_space", false}};
  json["decoder"] = byte_level(true);
  auto& model = json["model"] = Json::object();
  model["type"] = "BPE";
  model["dropout"] = nullptr;
  model["unk_token"] = special.unk.content;
  model["continuing_subword_prefix"] = "";
  model["end_of_word_suffix"] = "</w>";
  model["fuse_unk"] = false;
  model["byte_fallback"] = false;
  model["ignore_merges"] = false;
  model["vocab"] = state.model->vocabulary().tokens;
  auto& merges = model["merges"] = Json::array();
  for (const auto& [left, right] : state.model->vocabulary().merges)
    merges.push_back(Json::array({left, right}));
  return json;
}

}  // namespace

CLIPTokenizerState read_clip_tokenizer(const std::filesystem::path& folder) {
  require<FileError>(folder_exists(folder.string()), "{}: there is no such folder", folder.string());
  check_tokenizer_class(read_object(folder, kConfigFile), path_in(folder, kConfigFile));
  auto file = read_vocabulary(folder);
  const auto config = read_config(folder, file.added_tokens);
  const auto where = path_in(folder, kConfigFile);
  auto special = read_special_tokens(config, where);
  auto settings = read_settings(config, where);
  try {
    return {std::move(file.vocabulary), file.added_tokens, std::move(special), std::move(settings)};
  } catch (const ConfigError& error) {
    // An invalid vocabulary is reported as an error of its files.
    fail<FileError>("{}: {}", folder.string(), error.what());
  }
}

void write_clip_tokenizer(const CLIPTokenizerState& state, const std::filesystem::path& folder) {
  create_folders(folder.string());
  const auto write = [&](const char* name, std::string_view text) {
    write_file(text, path_in(folder, name));
  };
  write(kVocabularyFile, dump_json(state.model->vocabulary().tokens));
  std::string merges = "#version: 0.2\n";
  for (const auto& [left, right] : state.model->vocabulary().merges)
    merges.append(left).append(" ").append(right).append("\n");
  write(kMergesFile, merges);
  write(kSpecialTokensFile, dump_json(special_tokens_to_json(state.special)));
  write(kConfigFile, dump_json(config_to_json(state)));
  remove_file(path_in(folder, kAddedTokensFile));
  // Written last, because readers prefer it for the vocabulary.
  write(kTokenizerFile, dump_json(tokenizer_to_json(state)));
}

}  // namespace text
}  // namespace internal
}  // namespace diffusers

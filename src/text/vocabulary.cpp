#include "text/vocabulary.h"

#include <charconv>
#include <set>

#include "core/foreign_content.h"
#include "core/require.h"
#include "core/utf8.h"
#include "io/posix_file.h"
#include "text/unicode.h"

namespace diffusers {
inline namespace internal {
namespace text {
namespace {

/// Formats a value for error messages.
std::string shown(const Json& json) {
  if (json.is_structured()) return json.type_name();
  return fmt::format("{}", escaped(json.dump(-1, ' ', true, Json::error_handler_t::replace)));
}

VocabularyMap tokens_from_json(const Json& json, std::string_view where) {
  require<FileError>(json.is_object() && !json.empty(), "{}: expected a JSON object from tokens to ids",
                     where);
  VocabularyMap tokens;
  std::set<int64_t> ids;
  for (const auto& [token, value] : json.items()) {
    const auto id = parse_token_id(value, token, where);
    require<FileError>(ids.insert(id).second, "{}: the id {} occurs twice, the second time for {}", where, id,
                       escaped(token));
    tokens.emplace(token, id);
  }
  return tokens;
}

std::pair<std::string, std::string> split_merge(std::string_view line, std::string_view place,
                                                std::string_view where) {
  const auto space = line.find(' ');
  const bool two = space != std::string_view::npos && space > 0 && space + 1 < line.size() &&
                   line.find(' ', space + 1) == std::string_view::npos;
  require<FileError>(two, "{}: {}: expected two tokens with a space between, found {}", where, place,
                     escaped(line));
  return {std::string(line.substr(0, space)), std::string(line.substr(space + 1))};
}

MergeList read_merges(std::string_view text, std::string_view where) {
  require<FileError>(text.find('\0') == std::string_view::npos, "{}: holds a NUL byte", where);
  require<FileError>(!text.starts_with("\xef\xbb\xbf"), "{}: starts with a byte-order mark", where);
  MergeList merges;
  std::size_t number = 0;
  while (!text.empty()) {
    const auto end = text.find('\n');
    auto line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.starts_with("#version")) continue;
    const auto place = fmt::format("line {}", number);
    require<FileError>(is_utf8(line), "{}: {} is not UTF-8", where, place);
    merges.push_back(split_merge(line, place, where));
  }
  return merges;
}

/// Throws a FileError that describes text without merges, if its kind is recognised.
void refuse_merges(std::string_view text, std::string_view where) {
  if (const auto meaning = describe_foreign_content(text))
    fail<FileError>("{}: expected lines of two tokens: {}", where, *meaning);
}

MergeList merges_from_json(const Json& json, std::string_view where) {
  require<FileError>(json.is_array(), "{}: model.merges is no list", where);
  MergeList merges;
  merges.reserve(json.size());
  for (std::size_t i = 0; i < json.size(); ++i) {
    const auto& merge = json[i];
    const auto place = fmt::format("model.merges[{}]", i);
    if (merge.is_string()) {
      merges.push_back(split_merge(merge.get_ref<const std::string&>(), place, where));
      continue;
    }
    require<FileError>(merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string(),
                       "{}: {}: expected two tokens", where, place);
    merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
  }
  return merges;
}

/// Returns the member of an object; null if it is missing.
const Json& member(const Json& json, const char* key) {
  static const Json null;
  const auto found = json.find(key);
  return found == json.end() ? null : *found;
}

void read_flag(const Json& json, const char* key, std::string_view name, std::string_view where, bool& flag) {
  const auto& value = member(json, key);
  if (value.is_null()) return;
  require<FileError>(value.is_boolean(), "{}: {} of {} is {}, expected true or false", where, key, name,
                     shown(value));
  flag = value.get<bool>();
}

}  // namespace

int64_t parse_token_id(const Json& json, std::string_view key, std::string_view where) {
  const bool fits = json.is_number_integer() && (json.is_number_unsigned() || json.get<int64_t>() >= 0) &&
                    json.get<uint64_t>() <= static_cast<uint64_t>(kMaxTokenId);
  require<FileError>(fits, "{}: the id of {} is {}, expected an integer in [0, {}]", where, escaped(key),
                     shown(json), kMaxTokenId);
  return json.get<int64_t>();
}

int64_t parse_token_id(std::string_view text, std::string_view where) {
  int64_t id = -1;
  const auto* end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, id);
  require<FileError>(error == std::errc() && stopped == end && id >= 0 && id <= kMaxTokenId,
                     "{}: the id of an added token is {}, expected an integer in [0, {}]", where,
                     escaped(text), kMaxTokenId);
  return id;
}

VocabularyMap parse_vocabulary(std::string_view json, std::string_view where) {
  return tokens_from_json(parse_json(json, where), where);
}

MergeList parse_merges(std::string_view text, std::string_view where) {
  require<FileError>(text.size() <= kMaxVocabularyBytes, "{}: {} bytes of merges, at most {} are accepted",
                     where, text.size(), kMaxVocabularyBytes);
  // A Git LFS pointer would be accepted otherwise, because each of its lines has two words.
  if (!text.empty()) refuse_merges(text.substr(0, 512), where);
  try {
    return read_merges(text, where);
  } catch (const FileError&) {
    refuse_merges(text, where);
    throw;
  }
}

TokenEntry parse_token(const Json& json, std::string_view key, std::string_view where) {
  TokenEntry token;
  if (json.is_string()) {
    token.content = json.get<std::string>();
    return token;
  }
  const auto* content = json.is_object() ? &member(json, "content") : nullptr;
  require<FileError>(content != nullptr && content->is_string(),
                     "{}: {} is {}, expected a token: a string, or an object with \"content\"", where, key,
                     shown(json));
  token.content = content->get<std::string>();
  read_flag(json, "single_word", key, where, token.single_word);
  read_flag(json, "lstrip", key, where, token.lstrip);
  read_flag(json, "rstrip", key, where, token.rstrip);
  read_flag(json, "special", key, where, token.special);
  token.normalized = !token.special;
  read_flag(json, "normalized", key, where, token.normalized);
  return token;
}

TokenizerFile parse_tokenizer_json(std::string_view json, std::string_view where) {
  const Json file = parse_json(json, where);
  require<FileError>(file.is_object(), "{}: expected a JSON object", where);
  const auto& model = member(file, "model");
  require<FileError>(model.is_object(), "{}: expected an object \"model\"", where);
  const auto expect = [&](const char* key, const char* value) {
    const auto& found = member(model, key);
    require<FileError>(found.is_null() || found == value, "{}: model.{} is {}, expected \"{}\"", where, key,
                       shown(found), value);
  };
  expect("type", "BPE");
  expect("end_of_word_suffix", "</w>");

  TokenizerFile result;
  result.vocabulary.tokens = tokens_from_json(member(model, "vocab"), where);
  result.vocabulary.merges = merges_from_json(member(model, "merges"), where);
  const auto& added = member(file, "added_tokens");
  require<FileError>(added.is_null() || added.is_array(), "{}: added_tokens is no list", where);
  for (std::size_t i = 0; i < added.size(); ++i) {
    const auto place = fmt::format("added_tokens[{}]", i);
    require<FileError>(added[i].is_object(), "{}: {} is no object", where, place);
    const auto id = parse_token_id(member(added[i], "id"), place, where);
    const auto token = parse_token(added[i], place, where);
    require<FileError>(result.added_tokens.emplace(id, token).second,
                       "{}: the id {} occurs twice in added_tokens", where, id);
  }
  return result;
}

}  // namespace text
}  // namespace internal
}  // namespace diffusers

#include "text/added_vocabulary.h"

#include <algorithm>
#include <utility>

#include "core/require.h"
#include "core/utf8.h"
#include "io/posix_file.h"
#include "text/clip_words.h"
#include "text/unicode.h"

namespace diffusers {
inline namespace internal {
namespace text {
namespace {

/// Returns the code point that begins (or, reading backwards, ends) at a position of a UTF-8 text.
char32_t code_point_at(std::string_view text, std::size_t begin) {
  std::size_t end = begin + 1;
  while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) ++end;
  return decode_utf8(text.substr(begin, end - begin)).front();
}

std::size_t start_of_last(std::string_view text, std::size_t end) {
  std::size_t begin = end - 1;
  while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
  return begin;
}

bool touches_word(std::string_view text, std::size_t begin, std::size_t end) {
  return (begin > 0 && is_word_character(code_point_at(text, start_of_last(text, begin)))) ||
         (end < text.size() && is_word_character(code_point_at(text, end)));
}

std::size_t skip_spaces_left(std::string_view text, std::size_t begin, std::size_t least) {
  while (begin > least) {
    const auto start = start_of_last(text, begin);
    if (!is_space(code_point_at(text, start))) break;
    begin = start;
  }
  return std::max(begin, least);
}

std::size_t skip_spaces_right(std::string_view text, std::size_t end) {
  while (end < text.size() && is_space(code_point_at(text, end))) {
    ++end;
    while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) ++end;
  }
  return end;
}

}  // namespace

void AddedVocabulary::Patterns::add(const std::string& content, int64_t id) {
  auto& bucket = by_first_byte[static_cast<unsigned char>(content.front())];
  const auto place = std::find_if(bucket.begin(), bucket.end(), [&](const Pattern& other) {
    return other.content.size() < content.size();
  });
  bucket.insert(place, {content, id});
}

const AddedVocabulary::Patterns::Pattern* AddedVocabulary::Patterns::match(std::string_view text) const {
  const auto& bucket = by_first_byte[static_cast<unsigned char>(text.front())];
  const auto found = std::find_if(bucket.begin(), bucket.end(),
                                  [&](const Pattern& pattern) { return text.starts_with(pattern.content); });
  return found == bucket.end() ? nullptr : &*found;
}

int64_t AddedVocabulary::add(const std::vector<TokenEntry>& tokens, const BytePairEncoding& model) {
  int64_t next_id = std::max(tokens_.empty() ? 0 : tokens_.rbegin()->first + 1, model.size());
  int64_t count = 0;
  for (const auto& token : tokens) {
    if (token.content.empty()) continue;
    require<TextError>(is_utf8(token.content), "the added token {} is not UTF-8", escaped(token.content));
    auto id = token_to_id(token.content);
    if (id && tokens_.at(*id) == token) continue;
    if (!id) id = model.token_to_id(token.content);
    if (!id) id = next_id++;
    if (token.normalized) {
      if (auto normalized = normalize_for_clip(token.content); normalized != token.content)
        normalized_.insert_or_assign(*id, std::move(normalized));
    }
    if (token.special) special_.insert(token.content);
    ids_.insert_or_assign(token.content, *id);
    tokens_.insert_or_assign(*id, token);
    ++count;
  }
  refresh();
  return count;
}

void AddedVocabulary::refresh() {
  in_text_ = {};
  in_normalized_ = {};
  for (const auto& [id, token] : tokens_) {
    if (!token.normalized) {
      in_text_.add(token.content, id);
    } else {
      const auto normalized = normalized_.find(id);
      in_normalized_.add(normalized == normalized_.end() ? token.content : normalized->second, id);
    }
  }
}

void AddedVocabulary::split_at(const Patterns& patterns, std::string_view text, bool split_special,
                               const OnToken& on_token, const OnText& on_text) const {
  std::size_t done = 0;
  for (std::size_t at = 0; at < text.size();) {
    const auto* pattern = patterns.match(text.substr(at));
    if (pattern == nullptr) {
      ++at;
      continue;
    }
    auto begin = at;
    auto end = at + pattern->content.size();
    at = end;
    const auto& token = tokens_.at(pattern->id);
    if (split_special && is_special(token.content)) continue;
    if (token.single_word && touches_word(text, begin, end)) continue;
    if (token.lstrip) begin = skip_spaces_left(text, begin, done);
    if (token.rstrip) end = skip_spaces_right(text, end);
    // A token that strips the spaces on its right may overlap the beginning of this one.
    begin = std::max(begin, done);
    if (done < begin) on_text(text.substr(done, begin - done));
    on_token(pattern->id, text.substr(begin, end - begin));
    done = std::max(done, end);
  }
  if (done < text.size()) on_text(text.substr(done));
}

void AddedVocabulary::split(std::string_view text, bool split_special, const OnToken& on_token,
                            const OnText& on_text) const {
  decode_utf8(text);  // throws for invalid UTF-8 anywhere in the text
  split_at(in_text_, text, split_special, on_token, [&](std::string_view piece) {
    const auto normalized = normalize_for_clip(piece);
    split_at(in_normalized_, normalized, split_special, on_token, on_text);
  });
}

std::optional<int64_t> AddedVocabulary::token_to_id(std::string_view token) const {
  const auto found = ids_.find(token);
  return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

std::optional<std::string> AddedVocabulary::id_to_token(int64_t id) const {
  if (const auto found = normalized_.find(id); found != normalized_.end()) return found->second;
  const auto found = tokens_.find(id);
  return found == tokens_.end() ? std::nullopt : std::optional(found->second.content);
}

}  // namespace text
}  // namespace internal
}  // namespace diffusers

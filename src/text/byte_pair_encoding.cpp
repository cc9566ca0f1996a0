#include "text/byte_pair_encoding.h"

#include <queue>
#include <utility>

#include "core/require.h"
#include "core/utf8.h"
#include "io/posix_file.h"
#include "text/unicode.h"

namespace diffusers {
inline namespace internal {
namespace text {
namespace {

constexpr std::string_view kEndOfWord = "</w>";

/// Returns true for bytes that are a visible character in Latin-1.
bool is_visible(unsigned byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

uint64_t pair_key(int64_t left, int64_t right) {
  return (static_cast<uint64_t>(left) << 32) | static_cast<uint64_t>(right);
}

/// A pair that can be merged. The order is by rank, then by position.
struct Candidate {
  int64_t rank;
  std::size_t position;
  int64_t id;
  bool operator<(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

}  // namespace

ByteAlphabet::ByteAlphabet() {
  char32_t next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const char32_t code_point = is_visible(byte) ? byte : next++;
    append_utf8(letters_[byte], code_point);
    bytes_.emplace(code_point, static_cast<unsigned char>(byte));
  }
}

const ByteAlphabet& ByteAlphabet::instance() {
  static const ByteAlphabet alphabet;
  return alphabet;
}

std::string ByteAlphabet::bytes_of(std::string_view token) const {
  std::string bytes;
  for (const auto code_point : decode_utf8(token)) {
    const auto found = bytes_.find(code_point);
    if (found == bytes_.end()) return std::string(token);
    bytes.push_back(static_cast<char>(found->second));
  }
  return bytes;
}

BytePairEncoding::BytePairEncoding(Vocabulary vocabulary, std::string unk_token)
    : vocabulary_(std::move(vocabulary)), unk_token_(std::move(unk_token)) {
  for (const auto& [token, id] : vocabulary_.tokens) {
    require<ConfigError>(id >= 0 && id <= kMaxTokenId, "the id of token {} is {}, expected one in [0, {}]",
                         escaped(token), id, kMaxTokenId);
    require<ConfigError>(is_utf8(token), "the token with the id {} is not UTF-8", id);
    const auto [found, is_new] = token_of_.emplace(id, &token);
    require<ConfigError>(is_new, "the tokens {} and {} have the same id, {}", escaped(*found->second),
                         escaped(token), id);
  }
  for (std::size_t rank = 0; rank < vocabulary_.merges.size(); ++rank) {
    const auto& merge = vocabulary_.merges[rank];
    const auto id_of = [&](const std::string& token) {
      const auto found = vocabulary_.tokens.find(token);
      require<ConfigError>(found != vocabulary_.tokens.end(),
                           "merge {} ({} and {}): the vocabulary has no token {}", rank, escaped(merge.first),
                           escaped(merge.second), escaped(token));
      return found->second;
    };
    // As in Python, the last one of duplicate merges counts.
    const int64_t left = id_of(merge.first);
    const int64_t right = id_of(merge.second);
    merges_[pair_key(left, right)] = {.rank = static_cast<int64_t>(rank),
                                      .id = id_of(merge.first + merge.second)};
  }
  const auto& alphabet = ByteAlphabet::instance();
  for (unsigned byte = 0; byte < 256; ++byte) {
    const auto& letter = alphabet.letter(static_cast<unsigned char>(byte));
    byte_ids_[byte] = token_to_id(letter);
    last_byte_ids_[byte] = token_to_id(letter + std::string(kEndOfWord));
  }
  unk_id_ = token_to_id(unk_token_);
}

std::optional<int64_t> BytePairEncoding::token_to_id(std::string_view token) const {
  const auto found = vocabulary_.tokens.find(std::string(token));
  return found == vocabulary_.tokens.end() ? std::nullopt : std::optional(found->second);
}

std::optional<std::string> BytePairEncoding::id_to_token(int64_t id) const {
  const auto found = token_of_.find(id);
  return found == token_of_.end() ? std::nullopt : std::optional(*found->second);
}

const BytePairEncoding::Merge* BytePairEncoding::find_merge(int64_t left, int64_t right) const {
  const auto found = merges_.find(pair_key(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

void BytePairEncoding::encode(std::string_view word, std::vector<int64_t>& ids) const {
  std::vector<int64_t> symbols;
  symbols.reserve(word.size());
  for (std::size_t i = 0; i < word.size(); ++i) {
    const auto byte = static_cast<unsigned char>(word[i]);
    auto id = i + 1 == word.size() ? last_byte_ids_[byte] : byte_ids_[byte];
    if (!id) id = unk_id_;
    require<TextError>(id.has_value(),
                       "the vocabulary has no token for byte {:#04x}, nor the unknown token {}", byte,
                       escaped(unk_token_));
    symbols.push_back(*id);
  }
  merge_all(symbols);
  ids.insert(ids.end(), symbols.begin(), symbols.end());
}

void BytePairEncoding::merge_all(std::vector<int64_t>& symbols) const {
  constexpr int64_t kGone = -1;
  const std::size_t count = symbols.size();
  std::vector<std::size_t> next(count);
  std::vector<std::size_t> previous(count);
  std::priority_queue<Candidate> queue;
  const auto consider = [&](std::size_t left, std::size_t right) {
    if (const auto* merge = find_merge(symbols[left], symbols[right]); merge != nullptr)
      queue.push({.rank = merge->rank, .position = left, .id = merge->id});
  };
  for (std::size_t i = 0; i < count; ++i) {
    next[i] = i + 1;
    previous[i] = i - 1;  // the value of the first element is never read
    if (i + 1 < count) consider(i, i + 1);
  }
  while (!queue.empty()) {
    const auto best = queue.top();
    queue.pop();
    const auto left = best.position;
    const auto right = next[left];
    if (symbols[left] == kGone || right >= count) continue;
    // The pair may have changed since it was queued.
    const auto* merge = find_merge(symbols[left], symbols[right]);
    if (merge == nullptr || merge->id != best.id) continue;
    symbols[left] = best.id;
    symbols[right] = kGone;
    next[left] = next[right];
    if (next[left] < count) previous[next[left]] = left;
    if (left > 0) consider(previous[left], left);
    if (next[left] < count) consider(left, next[left]);
  }
  std::erase(symbols, kGone);
}

}  // namespace text
}  // namespace internal
}  // namespace diffusers

#include "clip_vocabulary.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <utility>

#include <diffusers/core/error.h>

using namespace diffusers;

namespace {

using Pair = std::pair<std::string, std::string>;

/// A word as its tokens, and how often it occurs.
struct Word {
  std::vector<std::string> tokens;
  int64_t count = 0;
};

/// Returns the UTF-8 bytes of a code point below 0x800.
std::string utf8(int code) {
  if (code < 0x80) return {static_cast<char>(code)};
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
}

/// Returns the letters that represent bytes, in the order of their ids: first the bytes that are printable
/// characters, then the code points from 0x100 for the others (GPT-2 and CLIP, `bytes_to_unicode`).
std::vector<std::string> byte_letters() {
  const auto is_visible = [](int byte) {
    return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
  };
  std::vector<std::string> letters;
  for (int byte = 0; byte < 256; ++byte)
    if (is_visible(byte)) letters.push_back(utf8(byte));
  const int visible = static_cast<int>(letters.size());
  for (int i = 0; i < 256 - visible; ++i) letters.push_back(utf8(0x100 + i));
  return letters;
}

/// Counts the words of the texts. Each digit is a word, as CLIP splits a text.
std::map<std::string, int64_t> count_words(const std::vector<std::string>& texts) {
  std::map<std::string, int64_t> counts;
  for (const std::string& text : texts) {
    std::string word;
    const auto end_word = [&] {
      if (!word.empty()) ++counts[word];
      word.clear();
    };
    for (const char letter : text) {
      const bool is_digit = letter >= '0' && letter <= '9';
      if (letter != ' ' && !is_digit && (letter < 'a' || letter > 'z'))
        throw ConfigError("the text \"" + text +
                          "\" is not supported, expected lower-case ASCII letters, digits and spaces");
      if (letter == ' ' || is_digit) end_word();
      if (letter == ' ') continue;
      word += letter;
      if (is_digit) end_word();
    }
    end_word();
  }
  return counts;
}

std::vector<Word> split_words(const std::map<std::string, int64_t>& counts) {
  std::vector<Word> words;
  for (const auto& [text, count] : counts) {
    Word word{.tokens = {}, .count = count};
    for (const char letter : text) word.tokens.emplace_back(1, letter);
    word.tokens.back() += "</w>";
    words.push_back(std::move(word));
  }
  return words;
}

/// Returns the most frequent pair of neighbouring tokens; a pair of empty strings if there is none.
Pair most_frequent_pair(const std::vector<Word>& words) {
  std::map<Pair, int64_t> counts;
  for (const Word& word : words)
    for (std::size_t i = 0; i + 1 < word.tokens.size(); ++i)
      counts[{word.tokens[i], word.tokens[i + 1]}] += word.count;
  Pair best;
  int64_t most = 0;
  for (const auto& [pair, count] : counts) {
    if (count <= most) continue;
    best = pair;
    most = count;
  }
  return best;
}

void merge(const Pair& pair, Word& word) {
  std::vector<std::string> merged;
  for (std::size_t i = 0; i < word.tokens.size(); ++i) {
    const bool is_pair =
        i + 1 < word.tokens.size() && word.tokens[i] == pair.first && word.tokens[i + 1] == pair.second;
    merged.push_back(is_pair ? pair.first + pair.second : word.tokens[i]);
    if (is_pair) ++i;
  }
  word.tokens = std::move(merged);
}

std::vector<Pair> learn_merges(const std::vector<std::string>& texts, int64_t max_merges) {
  std::vector<Word> words = split_words(count_words(texts));
  std::vector<Pair> merges;
  while (static_cast<int64_t>(merges.size()) < max_merges) {
    const Pair pair = most_frequent_pair(words);
    if (pair.first.empty()) break;
    for (Word& word : words) merge(pair, word);
    merges.push_back(pair);
  }
  return merges;
}

}  // namespace

CLIPTokenizer learn_clip_tokenizer(const std::vector<std::string>& texts,
                                   const ClipVocabularyOptions& options) {
  if (options.max_merges < 0)
    throw ConfigError("max_merges is " + std::to_string(options.max_merges) + ", expected 0 or more");
  CLIPTokenizerConfig config{.merges = learn_merges(texts, options.max_merges),
                             .model_max_length = options.model_max_length};
  const auto add = [&](const std::string& token) {
    const auto id = static_cast<int64_t>(config.vocab.size());
    config.vocab.emplace(token, id);
  };
  const std::vector<std::string> letters = byte_letters();
  for (const std::string& letter : letters) add(letter);
  for (const std::string& letter : letters) add(letter + "</w>");
  for (const Pair& pair : config.merges) add(pair.first + pair.second);
  add(config.bos_token.content);
  add(config.eos_token.content);
  return CLIPTokenizer(config);
}

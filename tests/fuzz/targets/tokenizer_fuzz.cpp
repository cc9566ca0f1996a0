// tokenizer.json, and texts that are encoded with it. The texts consist of its tokens, so merges and added
// tokens occur in them.
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/error.h>

#include "fuzz.h"
#include "text/added_vocabulary.h"
#include "text/byte_pair_encoding.h"
#include "text/clip_words.h"
#include "text/vocabulary.h"

namespace diffusers {
namespace {

constexpr std::size_t kLongestText = 4096;

std::string text_of_tokens(const text::TokenizerFile& file) {
  std::string out = "hello ";
  const auto add = [&](const std::string& token) {
    if (out.size() + token.size() < kLongestText) out += token;
  };
  for (const auto& [id, token] : file.added_tokens) add(token.content);
  for (const auto& [left, right] : file.vocabulary.merges) add(left + right);
  for (const auto& [token, id] : file.vocabulary.tokens) add(token);
  return out;
}

void encode_own_tokens(text::TokenizerFile file) {
  const std::string sample = text_of_tokens(file);
  const std::string unknown = file.vocabulary.tokens.begin()->first;
  const text::BytePairEncoding model(std::move(file.vocabulary), unknown);
  text::AddedVocabulary added;
  std::vector<text::TokenEntry> tokens;
  for (const auto& [id, token] : file.added_tokens) tokens.push_back(token);
  added.add(tokens, model);
  std::vector<int64_t> ids;
  for (const bool split_special : {false, true}) {
    added.split(
        sample, split_special, [&](int64_t id, std::string_view) { ids.push_back(id); },
        [&](std::string_view piece) {
          for (const auto word : text::split_into_words(piece)) model.encode(word, ids);
        });
  }
  for (const int64_t id : ids)
    fuzz::check(model.id_to_token(id).has_value() || added.id_to_token(id).has_value(),
                "an id has its token");
}

}  // namespace
}  // namespace diffusers

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  using namespace diffusers;
  try {
    encode_own_tokens(text::parse_tokenizer_json(fuzz::text_of(data, size), "tokenizer.json"));
  } catch (const FileError&) {
  } catch (const ConfigError&) {  // a merge with a token that is not in the vocabulary
  }
  return 0;
}

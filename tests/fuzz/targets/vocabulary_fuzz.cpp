// vocab.json: the ids of a vocabulary, and the encoding that is built from them.
#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/error.h>

#include "fuzz.h"
#include "text/byte_pair_encoding.h"
#include "text/vocabulary.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  using namespace diffusers;
  try {
    text::VocabularyMap tokens = text::parse_vocabulary(fuzz::text_of(data, size), "vocab.json");
    std::set<int64_t> ids;
    for (const auto& [token, id] : tokens)
      fuzz::check(id >= 0 && id <= text::kMaxTokenId && ids.insert(id).second, "an id is a row, and once");
    const std::string unknown = tokens.begin()->first;
    const text::BytePairEncoding encoding({std::move(tokens), {}}, unknown);
    std::vector<int64_t> found;
    encoding.encode("hello \xc3\xa9", found);
    for (const int64_t id : found) fuzz::check(encoding.id_to_token(id).has_value(), "an id has its token");
  } catch (const FileError&) {
  }
  return 0;
}

// merges.txt.
#include <cstdint>

#include <diffusers/core/error.h>

#include "core/utf8.h"
#include "fuzz.h"
#include "text/vocabulary.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  using namespace diffusers;
  try {
    for (const auto& [left, right] : text::parse_merges(fuzz::text_of(data, size), "merges.txt")) {
      fuzz::check(!left.empty() && !right.empty(), "a merge is of two tokens");
      fuzz::check(is_utf8(left) && is_utf8(right), "a token is UTF-8");
      fuzz::check((left + right).find_first_of(" \n") == std::string::npos, "a token is one word");
    }
  } catch (const FileError&) {
  }
  return 0;
}

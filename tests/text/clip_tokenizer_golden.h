#pragma once

// The tokenizers of tests/reference/text.py.

#include <string>
#include <string_view>
#include <vector>

#include <diffusers/io/files.h>
#include <diffusers/text/clip_tokenizer.h>

#include "core/json.h"
#include "support/golden.h"

namespace diffusers::test {

inline const Json& tokenizer_golden() {
  static const Json json =
      parse_json(read_text_file(golden_path("clip_tokenizer.json")), "clip_tokenizer.json");
  return json;
}

inline std::vector<std::string> golden_prompts() {
  return tokenizer_golden()["prompts"].get<std::vector<std::string>>();
}

inline void copy_golden(const std::string& from, const std::string& to) {
  write_bytes(to, read_text_file(golden_path(from)));
}

/// A folder with the vocabulary of clip_tokenizer and the tokenizer_config.json of another tokenizer.
class TokenizerFolder {
 public:
  explicit TokenizerFolder(const std::string& config = "clip_tokenizer") {
    for (const std::string file : {"vocab.json", "merges.txt"})
      copy_golden("clip_tokenizer/" + file, folder_ / file);
    copy_golden(config + "/tokenizer_config.json", folder_ / "tokenizer_config.json");
  }
  const std::string& path() const { return folder_.path(); }
  std::string operator/(std::string_view name) const { return folder_ / name; }
  CLIPTokenizer load() const { return CLIPTokenizer::from_pretrained(path()); }

 private:
  TemporaryFolder folder_;
};

/// A config with the tokens "a", "b" and "ab", and CLIP's special tokens.
inline CLIPTokenizerConfig small_config() {
  return {.vocab = {{"a", 0},
                    {"b", 1},
                    {"a</w>", 2},
                    {"b</w>", 3},
                    {"ab</w>", 4},
                    {"<|startoftext|>", 5},
                    {"<|endoftext|>", 6}},
          .merges = {{"a", "b</w>"}}};
}

}  // namespace diffusers::test

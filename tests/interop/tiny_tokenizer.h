#pragma once

#include <cstdint>
#include <string>

#include <diffusers/text/clip_tokenizer.h>

namespace diffusers::test {

/// Single letters, at the end of a word and elsewhere, and "cat".
inline CLIPTokenizer tiny_tokenizer() {
  CLIPTokenizerConfig config;
  const auto add = [&](const std::string& token) {
    const auto id = static_cast<int64_t>(config.vocab.size());
    config.vocab[token] = id;
  };
  for (char letter = 'a'; letter <= 'z'; ++letter) {
    add(std::string(1, letter));
    add(std::string(1, letter) + "</w>");
  }
  for (const char* token : {"ca", "cat</w>", "<|startoftext|>", "<|endoftext|>"}) add(token);
  config.merges = {{"c", "a"}, {"ca", "t</w>"}};
  return CLIPTokenizer(config);
}

}  // namespace diffusers::test

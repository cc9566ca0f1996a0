#include "examples/text_to_image/clip_vocabulary.h"

#include <string>
#include <vector>

#include <diffusers/core/error.h>

#include <gtest/gtest.h>

#include "examples/text_to_image/mnist_captions.h"

namespace {

using diffusers::CLIPTokenizer;
using Tokens = std::vector<std::string>;

TEST(ClipVocabulary, EachWordOfTheTextsIsOneToken) {
  const CLIPTokenizer tokenizer = learn_clip_tokenizer(all_captions(), {.model_max_length = 16});
  EXPECT_EQ(tokenizer.tokenize("a handwritten three"), (Tokens{"a</w>", "handwritten</w>", "three</w>"}));
  EXPECT_EQ(tokenizer.tokenize("The digit 42"), (Tokens{"the</w>", "digit</w>", "4</w>", "2</w>"}));
  EXPECT_EQ(tokenizer.model_max_length(), 16);
}

TEST(ClipVocabulary, IdsHaveTheOrderOfClips) {
  const CLIPTokenizer tokenizer = learn_clip_tokenizer({"ab"});
  EXPECT_EQ(tokenizer.size(), 512 + 1 + 2);
  EXPECT_EQ(tokenizer.convert_tokens_to_ids("!"), 0);
  EXPECT_EQ(tokenizer.convert_tokens_to_ids("a</w>"), 320);  // as in CLIP's vocab.json
  EXPECT_EQ(tokenizer.convert_tokens_to_ids("ab</w>"), 512);
  EXPECT_EQ(tokenizer.bos_token_id(), 513);
  EXPECT_EQ(tokenizer.eos_token_id(), 514);
  EXPECT_EQ(tokenizer.pad_token_id(), 514);
}

TEST(ClipVocabulary, MergesTheMostFrequentPairFirst) {
  const CLIPTokenizer tokenizer = learn_clip_tokenizer({"cab cab abs"}, {.max_merges = 2});
  // "a b</w>" and "c a" occur twice, "a b" and "b s</w>" once.
  EXPECT_EQ(tokenizer.tokenize("cab abs"), (Tokens{"cab</w>", "a", "b", "s</w>"}));
  EXPECT_EQ(learn_clip_tokenizer({"cab"}, {.max_merges = 0}).tokenize("cab"), (Tokens{"c", "a", "b</w>"}));
}

TEST(ClipVocabulary, EveryTextCanBeEncoded) {
  const CLIPTokenizer tokenizer = learn_clip_tokenizer({"a cat"});
  for (const char* text : {"caf\xC3\xA9 !?", "\xE4\xB8\x89", "a cat"})
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text), {.skip_special_tokens = true}), text);
}

TEST(ClipVocabulary, RefusesOtherCharactersAndOptions) {
  EXPECT_THROW(learn_clip_tokenizer({"A cat"}), diffusers::ConfigError);
  EXPECT_THROW(learn_clip_tokenizer({"a cat."}), diffusers::ConfigError);
  EXPECT_THROW(learn_clip_tokenizer({"a"}, {.max_merges = -1}), diffusers::ConfigError);
  EXPECT_THROW(learn_clip_tokenizer({"a"}, {.model_max_length = 0}), diffusers::ConfigError);
}

}  // namespace

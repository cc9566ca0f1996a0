#pragma once

// A CLIP tokenizer for a small set of texts.

#include <cstdint>
#include <string>
#include <vector>

#include <diffusers/text/clip_tokenizer.h>

/// Options of `learn_clip_tokenizer`.
struct ClipVocabularyOptions {
  int64_t max_merges = 1000;      ///< largest number of merges, 0 or more
  int64_t model_max_length = 77;  ///< largest number of tokens in a sequence, with begin and end token
};

/// Learns a CLIP tokenizer from texts by byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909): the
/// most frequent pair of neighbouring tokens becomes a token, until each word is one token. Of equally
/// frequent pairs, the first in alphabetical order is merged.
///
/// The vocabulary has the order of CLIP's: 256 bytes, 256 bytes at the end of a word, the merges,
/// `<|startoftext|>`, `<|endoftext|>`. Every text can be encoded. Each word of `texts` is one token if
/// `max_merges` is large enough.
/// @param texts lower-case ASCII letters, digits and spaces; each digit is a word
/// @param options see ClipVocabularyOptions
/// @throws diffusers::ConfigError naming a text with another character, or an option that is not valid
diffusers::CLIPTokenizer learn_clip_tokenizer(const std::vector<std::string>& texts,
                                              const ClipVocabularyOptions& options = {});

#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/text/clip_tokenizer.h>
#include <diffusers/text/fwd.h>

namespace diffusers {

/// The embeddings of a textual-inversion file.
struct TextualInversionFile {
  /// Token in the file. Files of AUTOMATIC1111's web UI have none; it is then the name of the file.
  std::string token;
  Tensor embeddings;    ///< `[vectors, D]` floating, for `text_encoder`; undefined if there are none
  Tensor embeddings_2;  ///< `[vectors, D]` floating, for Stable Diffusion XL's `text_encoder_2`, or undefined
};

/// Reads a textual-inversion file. These layouts are known:
///  - of diffusers: one tensor, whose name is the token;
///  - of AUTOMATIC1111's web UI: one tensor "emb_params";
///  - of Stable Diffusion XL: the tensors "clip_l" and "clip_g".
///
/// A tensor `[D]` is one vector.
/// @param path a safetensors file, or a folder
/// @param weight_name name of the file in a folder; empty: `learned_embeds.safetensors`
/// @return token and embeddings, on the CPU
/// @throws FileError if the file is missing, damaged or of another layout; if it is a pickle, with the
///   command that converts it
TextualInversionFile read_textual_inversion(const std::filesystem::path& path,
                                            const std::string& weight_name = {});
/// Writes a file that `load_textual_inversion` of Python reads.
/// @param path of the file, such as "learned_embeds.safetensors"
/// @param token name of the tensor
/// @param embeddings `[vectors, D]` floating, on any device
/// @throws ConfigError for an empty token; TensorError for embeddings of another shape or dtype
/// @throws FileError if the file cannot be written
void save_textual_inversion(const std::filesystem::path& path, const std::string& token,
                            const Tensor& embeddings);

/// Names the tokens of several vectors: TOKEN, TOKEN_1, TOKEN_2, ...
/// @param token the first token
/// @param vectors number of vectors, at least 1
/// @return as many tokens
/// @throws ConfigError for an empty token or fewer vectors
std::vector<std::string> textual_inversion_tokens(const std::string& token, int64_t vectors);
/// Adds the tokens of a textual inversion to a tokenizer.
/// @param tokenizer gets the tokens of `textual_inversion_tokens`
/// @param token the first token
/// @param vectors number of vectors, at least 1
/// @return the tokens
/// @throws ConfigError naming a token that the tokenizer has already; the tokenizer has not changed then
std::vector<std::string> add_textual_inversion_tokens(CLIPTokenizer& tokenizer, const std::string& token,
                                                      int64_t vectors);
/// Adds a token for each vector to a tokenizer, and its embedding to a text encoder.
/// @param token the first token; the others are TOKEN_1, TOKEN_2, ...
/// @param embeddings `[vectors, D]` floating; D is the text encoder's hidden_size
/// @param tokenizer gets the tokens
/// @param text_encoder gets the rows; its other rows are kept, bit for bit
/// @return the tokens
/// @throws TensorError for embeddings of another shape, dtype or width; ConfigError naming a token that the
///   tokenizer has already. Nothing has changed then
std::vector<std::string> add_textual_inversion(const std::string& token, const Tensor& embeddings,
                                               CLIPTokenizer& tokenizer, const CLIPTextModel& text_encoder);
/// Adds tokens and embeddings to Stable Diffusion XL's second tokenizer and text encoder.
/// @param token as above
/// @param embeddings as above
/// @param tokenizer as above
/// @param text_encoder as above
/// @return the tokens
/// @throws TensorError and ConfigError as above
std::vector<std::string> add_textual_inversion(const std::string& token, const Tensor& embeddings,
                                               CLIPTokenizer& tokenizer,
                                               const CLIPTextModelWithProjection& text_encoder);

/// Replaces each token of a textual inversion with several vectors by all of its tokens: "a <cat>" becomes
/// "a <cat> <cat>_1 <cat>_2" (diffusers `TextualInversionLoaderMixin.maybe_convert_prompt`). Pipelines do so
/// with each prompt. As in Python, a token with upper-case letters is not replaced.
/// @param prompt the text
/// @param tokenizer has the tokens
/// @return the text with the tokens of all vectors
/// @throws TextError if the text is not UTF-8
std::string maybe_convert_prompt(const std::string& prompt, const CLIPTokenizer& tokenizer);
/// Converts each of several prompts.
/// @param prompts the texts
/// @param tokenizer has the tokens
/// @return as many texts
/// @throws TextError if a text is not UTF-8
Texts maybe_convert_prompt(const Texts& prompts, const CLIPTokenizer& tokenizer);

}  // namespace diffusers

#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include <diffusers/text/clip_tokenizer.h>
#include <diffusers/text/fwd.h>

namespace diffusers {

/// The arguments of `TextualInversionLoader::load_textual_inversion`.
struct LoadTextualInversionOptions {
  std::string token = {};        ///< replaces the token of the file; empty: that of the file
  std::string weight_name = {};  ///< name of the file in a folder; empty: `learned_embeds.safetensors`
  /// Text encoder of the embeddings of a file with one tensor, "text_encoder" or, for Stable Diffusion XL,
  /// "text_encoder_2". Empty: "text_encoder". A file with the tensors "clip_l" and "clip_g" has embeddings of
  /// both; then "text_encoder" or "text_encoder_2" takes only those of one.
  std::string text_encoder = {};
};

/// Textual inversions of a pipeline (diffusers `TextualInversionLoaderMixin`). Prompts that contain the token
/// of an inversion with several vectors are converted by `maybe_convert_prompt`.
class TextualInversionLoader {
 public:
  virtual ~TextualInversionLoader() = default;

  /// Adds the tokens of a file to the tokenizer, and their embeddings to the text encoder. Pipelines with the
  /// same text encoder get the rows, too, but not the tokens.
  /// @param path file or folder; the layouts are those of `read_textual_inversion`
  /// @param options token, file and text encoder
  /// @return the tokens, one for each vector
  /// @throws FileError if the file is missing, damaged, a pickle or of another layout, or if its embeddings
  /// do
  ///   not have the width of the text encoder, naming both
  /// @throws ConfigError naming a token that the tokenizer has already. Nothing has changed then
  std::vector<std::string> load_textual_inversion(const std::filesystem::path& path,
                                                  const LoadTextualInversionOptions& options = {});

 protected:
  /// The text encoders and tokenizers of a pipeline; null: it has none.
  struct TextualInversionParts {
    CLIPTokenizer* tokenizer = nullptr;                           ///< of `text_encoder`
    const CLIPTextModel* text_encoder = nullptr;                  ///< the first text encoder
    CLIPTokenizer* tokenizer_2 = nullptr;                         ///< of `text_encoder_2`
    const CLIPTextModelWithProjection* text_encoder_2 = nullptr;  ///< the second text encoder
  };

  TextualInversionLoader() = default;
  TextualInversionLoader(const TextualInversionLoader&) = default;                 ///< copies nothing
  TextualInversionLoader(TextualInversionLoader&&) noexcept = default;             ///< moves nothing
  TextualInversionLoader& operator=(const TextualInversionLoader&) = default;      ///< copies nothing
  TextualInversionLoader& operator=(TextualInversionLoader&&) noexcept = default;  ///< moves nothing
  /// @return the pipeline's text encoders and tokenizers
  virtual TextualInversionParts textual_inversion_parts() = 0;
};

}  // namespace diffusers

#include <utility>

#include <diffusers/core/error.h>
#include <diffusers/pipelines/textual_inversion_loader.h>
#include <diffusers/text/clip_text_model.h>
#include <diffusers/text/textual_inversion.h>

#include <ATen/ATen.h>

#include "core/require.h"

namespace diffusers {
namespace {

void require_width(const std::string& path, const Tensor& embeddings, int64_t width, const char* encoder) {
  require<FileError>(embeddings.size(1) == width,
                     "{}: the embeddings are {}, expected [vectors, {}], the hidden_size of {}; an inversion "
                     "fits the Stable Diffusion version that it was trained with",
                     path, describe(embeddings), width, encoder);
}

}  // namespace

std::vector<std::string> TextualInversionLoader::load_textual_inversion(
    const std::filesystem::path& path, const LoadTextualInversionOptions& options) {
  const TextualInversionParts parts = textual_inversion_parts();
  const std::string& chosen = options.text_encoder;
  require<ConfigError>(chosen.empty() || chosen == "text_encoder" || chosen == "text_encoder_2",
                       "text_encoder is \"{}\", expected \"text_encoder\" or \"text_encoder_2\"", chosen);
  TextualInversionFile file = read_textual_inversion(path, options.weight_name);
  const std::string where = path.string();
  const bool has_both = file.embeddings.defined() && file.embeddings_2.defined();
  if (chosen == "text_encoder_2") {
    if (!file.embeddings_2.defined()) file.embeddings_2 = file.embeddings;
    file.embeddings = Tensor();
  } else if (chosen == "text_encoder") {
    require<FileError>(file.embeddings.defined(), "{}: the file has embeddings of text_encoder_2 only",
                       where);
    file.embeddings_2 = Tensor();
  }
  require<FileError>(!file.embeddings.defined() || parts.text_encoder != nullptr,
                     "{}: the file has embeddings of text_encoder, which the pipeline does not have", where);
  require<FileError>(!file.embeddings_2.defined() || parts.text_encoder_2 != nullptr,
                     "{}: the file has embeddings of text_encoder_2, which the pipeline does not have; {}",
                     where,
                     has_both ? "an inversion of Stable Diffusion XL needs a pipeline of it"
                              : "expected embeddings of text_encoder");

  // Both are checked before one changes.
  if (file.embeddings.defined())
    require_width(where, file.embeddings, (*parts.text_encoder)->config().hidden_size, "text_encoder");
  if (file.embeddings_2.defined())
    require_width(where, file.embeddings_2, (*parts.text_encoder_2)->config().hidden_size, "text_encoder_2");
  const std::string token = options.token.empty() ? file.token : options.token;
  if (file.embeddings_2.defined()) {
    CLIPTokenizer trial = *parts.tokenizer_2;
    add_textual_inversion_tokens(trial, token, file.embeddings_2.size(0));
  }
  std::vector<std::string> tokens;
  if (file.embeddings.defined())
    tokens = add_textual_inversion(token, file.embeddings, *parts.tokenizer, *parts.text_encoder);
  if (file.embeddings_2.defined())
    tokens = add_textual_inversion(token, file.embeddings_2, *parts.tokenizer_2, *parts.text_encoder_2);
  return tokens;
}

}  // namespace diffusers

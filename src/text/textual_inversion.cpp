#include <algorithm>
#include <set>
#include <utility>

#include <diffusers/core/error.h>
#include <diffusers/core/tensor_map.h>
#include <diffusers/io/files.h>
#include <diffusers/io/safetensors.h>
#include <diffusers/text/clip_text_model.h>
#include <diffusers/text/textual_inversion.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "io/open_model_file.h"

namespace diffusers {
namespace {

constexpr const char* kLearnedEmbeds = "learned_embeds.safetensors";
constexpr const char* kWebUiName = "emb_params";
constexpr const char* kFirstEncoderName = "clip_l";
constexpr const char* kSecondEncoderName = "clip_g";

bool is_pickle_name(const std::string& name) {
  return name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth") || name.ends_with(".ckpt");
}

std::string stem_of_file(const std::string& name) { return name.substr(0, name.rfind('.')); }

[[noreturn]] void refuse_pickle(const std::string& path) {
  fail<FileError>(
      "{}: a Python pickle can run code and is not read; convert it with this command: python3 -c \"import "
      "torch; from safetensors.torch import save_file; e = torch.load('{}', weights_only=True); "
      "save_file({{'emb_params': e['string_to_param']['*'].detach()}} if 'string_to_param' in e else "
      "{{k: v.detach() for k, v in e.items()}}, '{}.safetensors')\"",
      path, path, stem_of_file(path));
}

/// Folder and name of the file.
std::pair<std::string, std::string> place_of_embeds(const std::string& path, const std::string& weight_name) {
  if (!folder_exists(path)) {
    if (is_pickle_name(path)) refuse_pickle(path);
    require<FileError>(file_exists(path), "{}: there is no such file or folder", path);
    require<FileError>(weight_name.empty(), "{}: weight_name is {}, but the path is that of a file", path,
                       weight_name);
    const std::string folder = parent_folder(path);
    return {folder.empty() ? "." : folder, base_name(path)};
  }
  const std::string name = weight_name.empty() ? kLearnedEmbeds : weight_name;
  if (is_pickle_name(name)) refuse_pickle(join_path(path, name));
  if (!file_exists(join_path(path, name)))
    for (const std::string& other : list_folder(path))
      if (weight_name.empty() && is_pickle_name(other)) refuse_pickle(join_path(path, other));
  return {path, name};
}

Tensor read_embeds(const SafetensorsFile& file, const std::string& name) {
  Tensor tensor = file.get(name);
  require<FileError>(
      tensor.is_floating_point() && (tensor.dim() == 1 || tensor.dim() == 2) && tensor.numel() > 0,
      "{}: \"{}\" is {}, expected a floating [vectors, width]", file.path(), name, describe(tensor));
  require<FileError>(tensor.isfinite().all().item<bool>(), "\"{}\" in {} holds values that are not finite",
                     name, file.path());
  return tensor.dim() == 1 ? tensor.unsqueeze(0) : tensor;
}

/// True if the tokenizer has a token, as a token of the vocabulary or an added one.
bool has_token(const CLIPTokenizer& tokenizer, const std::string& token) {
  return token == tokenizer.unk_token() || tokenizer.convert_tokens_to_ids(token) != tokenizer.unk_token_id();
}

void require_new_tokens(const CLIPTokenizer& tokenizer, const std::vector<std::string>& tokens) {
  for (const std::string& token : tokens)
    require<ConfigError>(!has_token(tokenizer, token),
                         "the tokenizer already has the token \"{}\"; choose another placeholder", token);
  // Prompts would use the vectors of an earlier inversion behind those of this one.
  const std::string next = fmt::format("{}_{}", tokens.front(), tokens.size());
  require<ConfigError>(!has_token(tokenizer, next),
                       "the tokenizer already has the token \"{}\", which prompts with \"{}\" would use; "
                       "choose another placeholder",
                       next, tokens.front());
}

template <class Encoder>
std::vector<std::string> add_embeds(const std::string& token, const Tensor& embeddings,
                                    CLIPTokenizer& tokenizer, const Encoder& text_encoder) {
  const int64_t width = text_encoder->config().hidden_size;
  require<TensorError>(
      embeddings.defined() && embeddings.dim() == 2 && embeddings.size(0) > 0 &&
          embeddings.is_floating_point() && embeddings.size(1) == width,
      "the embeddings of \"{}\" are {}, expected a floating [vectors, {}], the hidden_size of "
      "the text encoder",
      token, describe(embeddings), width);
  CLIPTokenizer extended = tokenizer;
  std::vector<std::string> tokens = add_textual_inversion_tokens(extended, token, embeddings.size(0));
  Encoder encoder = text_encoder;  // a handle; holders give non-const access from non-const objects
  if (extended.size() > encoder->config().vocab_size) encoder->resize_token_embeddings(extended.size());
  const at::NoGradGuard no_grad;
  const Tensor table = encoder->get_input_embeddings();
  for (std::size_t i = 0; i < tokens.size(); ++i)
    table[extended.convert_tokens_to_ids(tokens[i])].copy_(embeddings[static_cast<int64_t>(i)]);
  tokenizer = std::move(extended);
  return tokens;
}

}  // namespace

TextualInversionFile read_textual_inversion(const std::filesystem::path& path,
                                            const std::string& weight_name) {
  const std::pair<std::string, std::string> place = place_of_embeds(path.string(), weight_name);
  const SafetensorsFile file(open_model_file(place.first, place.second));
  const std::vector<std::string>& names = file.names();
  const auto is_name = [&](const char* name) { return std::ranges::find(names, name) != names.end(); };
  const std::string stem = stem_of_file(place.second);
  if (names.size() == 2 && is_name(kFirstEncoderName) && is_name(kSecondEncoderName)) {
    TextualInversionFile read{.token = stem,
                              .embeddings = read_embeds(file, kFirstEncoderName),
                              .embeddings_2 = read_embeds(file, kSecondEncoderName)};
    require<FileError>(read.embeddings.size(0) == read.embeddings_2.size(0),
                       "{}: \"{}\" is {} and \"{}\" is {}, expected equal numbers of vectors", file.path(),
                       kFirstEncoderName, describe(read.embeddings), kSecondEncoderName,
                       describe(read.embeddings_2));
    return read;
  }
  require<FileError>(names.size() == 1,
                     "{}: the file has the tensors [{}]; expected a textual inversion: one tensor with the "
                     "name of the token, \"{}\", or \"{}\" and \"{}\"",
                     file.path(), fmt::join(names, ", "), kWebUiName, kFirstEncoderName, kSecondEncoderName);
  if (names.front() == kSecondEncoderName)
    return {.token = stem, .embeddings = {}, .embeddings_2 = read_embeds(file, kSecondEncoderName)};
  const bool has_no_token = names.front() == kWebUiName || names.front() == kFirstEncoderName;
  return {.token = has_no_token ? stem : names.front(),
          .embeddings = read_embeds(file, names.front()),
          .embeddings_2 = {}};
}

void save_textual_inversion(const std::filesystem::path& path, const std::string& token,
                            const Tensor& embeddings) {
  require<ConfigError>(!token.empty(), "the token of a textual inversion is empty");
  require<TensorError>(embeddings.defined() && embeddings.dim() == 2 && embeddings.is_floating_point(),
                       "the embeddings of \"{}\" are {}, expected a floating [vectors, width]", token,
                       describe(embeddings));
  TensorMap tensors;
  tensors.insert(token, embeddings.detach().to(at::kCPU).contiguous());
  save_safetensors(tensors, path.string(), {{"format", "pt"}});
}

std::vector<std::string> textual_inversion_tokens(const std::string& token, int64_t vectors) {
  require<ConfigError>(!token.empty(), "the token of a textual inversion is empty");
  require<ConfigError>(vectors >= 1, "num_vectors is {}, expected at least 1", vectors);
  std::vector<std::string> tokens = {token};
  for (int64_t i = 1; i < vectors; ++i) tokens.push_back(fmt::format("{}_{}", token, i));
  return tokens;
}

std::vector<std::string> add_textual_inversion_tokens(CLIPTokenizer& tokenizer, const std::string& token,
                                                      int64_t vectors) {
  std::vector<std::string> tokens = textual_inversion_tokens(token, vectors);
  require_new_tokens(tokenizer, tokens);
  tokenizer.add_tokens(tokens);
  return tokens;
}

std::vector<std::string> add_textual_inversion(const std::string& token, const Tensor& embeddings,
                                               CLIPTokenizer& tokenizer, const CLIPTextModel& text_encoder) {
  return add_embeds(token, embeddings, tokenizer, text_encoder);
}

std::vector<std::string> add_textual_inversion(const std::string& token, const Tensor& embeddings,
                                               CLIPTokenizer& tokenizer,
                                               const CLIPTextModelWithProjection& text_encoder) {
  return add_embeds(token, embeddings, tokenizer, text_encoder);
}

std::string maybe_convert_prompt(const std::string& prompt, const CLIPTokenizer& tokenizer) {
  std::string converted = prompt;
  std::set<std::string> seen;
  for (const std::string& token : tokenizer.tokenize(prompt)) {
    if (!seen.insert(token).second || !has_token(tokenizer, token + "_1")) continue;
    std::string replacement = token;
    for (int64_t i = 1; has_token(tokenizer, fmt::format("{}_{}", token, i)); ++i)
      replacement += fmt::format(" {}_{}", token, i);
    for (auto at = converted.find(token); at != std::string::npos;
         at = converted.find(token, at + replacement.size()))
      converted.replace(at, token.size(), replacement);
  }
  return converted;
}

Texts maybe_convert_prompt(const Texts& prompts, const CLIPTokenizer& tokenizer) {
  std::vector<std::string> converted;
  for (const std::string& prompt : prompts.values())
    converted.push_back(maybe_convert_prompt(prompt, tokenizer));
  return converted;
}

}  // namespace diffusers

// The C++ side of the interop test of tokenizers and text encoders.
//     interop_text ids TOKENIZER PROMPTS.json    prints as JSON the ids of prompts, also of the decoded ids
//     interop_text save DIR TOKENIZER            saves a tokenizer, both text encoders and their outputs
//     interop_text check DIR                     opens what text.py saved, and compares
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>

#include <diffusers/core/random.h>
#include <diffusers/io/files.h>
#include <diffusers/io/safetensors.h>
#include <diffusers/text/clip_text_model.h>
#include <diffusers/text/clip_tokenizer.h>

#include <torch/types.h>

#include "core/json.h"

namespace {

using namespace diffusers;

const char* const kPrompt = "a <cat-toy> on Mars, it's 42!";

void print_ids(const std::filesystem::path& folder, const std::string& prompts) {
  const CLIPTokenizer tokenizer = CLIPTokenizer::from_pretrained(folder);
  Json rows = Json::array();
  for (const auto& prompt : parse_json(read_text_file(prompts), prompts)) {
    const auto ids = tokenizer.encode(prompt.get<std::string>());
    rows.push_back({ids, tokenizer.decode(ids), tokenizer.decode(ids, {.skip_special_tokens = true})});
  }
  std::puts(rows.dump(-1, ' ', true).c_str());
}

CLIPTextConfig tiny_config(const CLIPTokenizer& tokenizer) {
  return {.vocab_size = tokenizer.size(),
          .hidden_size = 16,
          .intermediate_size = 32,
          .projection_dim = 12,
          .num_hidden_layers = 2,
          .num_attention_heads = 4,
          .hidden_act = "gelu",
          .bos_token_id = tokenizer.bos_token_id(),
          .eos_token_id = tokenizer.eos_token_id()};
}

void save(const std::filesystem::path& folder, const std::filesystem::path& vocabulary) {
  CLIPTokenizer tokenizer = CLIPTokenizer::from_pretrained(vocabulary);
  tokenizer.add_tokens({"<cat-toy>"});
  tokenizer.save_pretrained(folder / "tokenizer");
  manual_seed(0);
  const CLIPTextModel plain(tiny_config(tokenizer));
  const CLIPTextModelWithProjection projected(tiny_config(tokenizer));
  plain->save_pretrained(folder / "text_encoder");
  projected->save_pretrained(folder / "text_encoder_2", {.max_shard_size = 100'000});
  const torch::NoGradGuard no_grad;
  const auto ids = tokenizer(kPrompt, {.padding = Padding::kMaxLength, .truncation = true}).input_ids;
  const TensorMap tensors = {{"ids", ids},
                             {"plain", plain->forward(ids).last_hidden_state},
                             {"projected", projected->forward(ids).text_embeds}};
  save_safetensors(tensors, (folder / "text.safetensors").string());
}

bool close(const char* name, const Tensor& found, const Tensor& expected) {
  const bool equal = torch::allclose(found, expected, 1e-4, 1e-4 * expected.abs().max().item<double>());
  if (!equal)
    std::fprintf(stderr, "%s: differs by %g\n", name, (found - expected).abs().max().item<double>());
  return equal;
}

bool check(const std::filesystem::path& folder) {
  const CLIPTokenizer tokenizer = CLIPTokenizer::from_pretrained(folder, {.subfolder = "tokenizer"});
  const CLIPTextModel plain = CLIPTextModel::from_pretrained(folder, {.subfolder = "text_encoder"});
  const auto projected =
      CLIPTextModelWithProjection::from_pretrained(folder, {.subfolder = "text_encoder_2"});
  const TensorMap tensors = load_safetensors((folder / "text.safetensors").string());
  const torch::NoGradGuard no_grad;
  const auto ids = tokenizer(kPrompt, {.padding = Padding::kMaxLength, .truncation = true}).input_ids;
  if (!torch::equal(ids, tensors.at("ids"))) {
    std::fprintf(stderr, "the ids differ\n");
    return false;
  }
  const bool same = close("plain", plain->forward(ids).last_hidden_state, tensors.at("plain"));
  return close("projected", projected->forward(ids).text_embeds, tensors.at("projected")) && same;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::string action = argc > 2 ? argv[1] : "";
    if (action == "ids" && argc == 4) {
      print_ids(argv[2], argv[3]);
      return 0;
    }
    if (action == "save" && argc == 4) {
      save(argv[2], argv[3]);
      return 0;
    }
    if (action == "check" && argc == 3) return check(argv[2]) ? 0 : 1;
    std::fprintf(stderr, "usage: interop_text ids TOKENIZER PROMPTS | save DIR TOKENIZER | check DIR\n");
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

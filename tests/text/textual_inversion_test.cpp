#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/core/tensor_map.h>
#include <diffusers/io/files.h>
#include <diffusers/io/safetensors.h>
#include <diffusers/text/clip_text_model.h>
#include <diffusers/text/textual_inversion.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"
#include "text/learned_tokens.h"

namespace diffusers {
namespace {

using test::expect_equal;
using test::expect_throws_with;
using test::golden_path;
using test::TemporaryFolder;

const std::string kInversionModel = golden_path("tiny_stable_diffusion");

CLIPTokenizer inversion_tokenizer() {
  return CLIPTokenizer::from_pretrained(kInversionModel, {.subfolder = "tokenizer"});
}
CLIPTextModel inversion_encoder() {
  return CLIPTextModel::from_pretrained(kInversionModel, {.subfolder = "text_encoder"});
}

TEST(TextualInversion, ReadsEachLayout) {
  const TextualInversionFile three =
      read_textual_inversion(golden_path("textual_inversion_files/three.safetensors"));
  EXPECT_EQ(three.token, "<three>");
  EXPECT_EQ(three.embeddings.size(0), 3);
  EXPECT_FALSE(three.embeddings_2.defined());
  const TextualInversionFile webui =
      read_textual_inversion(golden_path("textual_inversion_files"), "webui.safetensors");
  EXPECT_EQ(webui.token, "webui");
  EXPECT_EQ(webui.embeddings.size(0), 2);
  const TextualInversionFile xl =
      read_textual_inversion(golden_path("textual_inversion_files/xl.safetensors"));
  EXPECT_EQ(xl.token, "xl");
  EXPECT_EQ(xl.embeddings.size(0), 2);
  EXPECT_EQ(xl.embeddings_2.size(0), 2);
}

TEST(TextualInversion, SavesWhatItReads) {
  const TemporaryFolder folder;
  const Tensor vectors = at::randn({2, 16}, make_generator(1));
  save_textual_inversion(folder / "learned_embeds.safetensors", "<toy>", vectors);
  const TextualInversionFile read = read_textual_inversion(folder.path());
  EXPECT_EQ(read.token, "<toy>");
  expect_equal(read.embeddings, vectors, "vectors");
  // One vector may have one dimension.
  TensorMap flat;
  flat.insert("<toy>", vectors[0]);
  save_safetensors(flat, folder / "flat.safetensors");
  expect_equal(read_textual_inversion(folder / "flat.safetensors").embeddings, vectors.slice(0, 0, 1),
               "flat");
  expect_throws_with<ConfigError>([&] { save_textual_inversion(folder / "x.safetensors", "", vectors); },
                                  "token of a textual inversion is empty");
  expect_throws_with<TensorError>([&] { save_textual_inversion(folder / "x.safetensors", "a", vectors[0]); },
                                  "expected a floating [vectors, width]");
}

TEST(TextualInversion, FilesThatAreNoneAreRefused) {
  const TemporaryFolder folder;
  const auto save = [&](const std::string& name, const TensorMap& tensors) {
    save_safetensors(tensors, folder / name);
    return folder / name;
  };
  TensorMap two;
  two.insert("a", at::ones({1, 4}));
  two.insert("b", at::ones({1, 4}));
  expect_throws_with<FileError>([&] { read_textual_inversion(save("two.safetensors", two)); },
                                "has the tensors [a, b]; expected a textual inversion");
  TensorMap unequal;
  unequal.insert("clip_g", at::ones({1, 4}));
  unequal.insert("clip_l", at::ones({2, 4}));
  expect_throws_with<FileError>([&] { read_textual_inversion(save("unequal.safetensors", unequal)); },
                                "expected equal numbers of vectors");
  TensorMap whole;
  whole.insert("a", at::ones({1, 4}, at::kLong));
  expect_throws_with<FileError>([&] { read_textual_inversion(save("whole.safetensors", whole)); },
                                "expected a floating [vectors, width]");
  TensorMap infinite;
  infinite.insert("a", at::full({1, 4}, 1.0 / 0.0));
  expect_throws_with<FileError>([&] { read_textual_inversion(save("infinite.safetensors", infinite)); },
                                "not finite");
  expect_throws_with<FileError>([&] { read_textual_inversion(folder / "none.safetensors"); },
                                "there is no such file or folder");
  expect_throws_with<FileError>([&] { read_textual_inversion(folder / "two.safetensors", "x.safetensors"); },
                                "the path is that of a file");
  // Pickles: by name, and as the only file of a folder.
  write_file("x", folder / "style.pt");
  expect_throws_with<FileError>([&] { read_textual_inversion(folder / "style.pt"); },
                                "torch.load('" + (folder / "style.pt") + "', weights_only=True)");
  const TemporaryFolder other;
  write_file("x", other / "learned_embeds.bin");
  expect_throws_with<FileError>([&] { read_textual_inversion(other.path()); },
                                "learned_embeds.safetensors')\"");
  expect_throws_with<FileError>([&] { read_textual_inversion(other.path(), "learned_embeds.bin"); },
                                "a Python pickle can run code");
}

TEST(TextualInversion, AddsTokensAndRows) {
  CLIPTokenizer tokenizer = inversion_tokenizer();
  CLIPTextModel encoder = inversion_encoder();
  const int64_t before = tokenizer.size();
  const Tensor table = encoder->get_input_embeddings().detach().clone();
  const Tensor vectors = at::randn({3, table.size(1)}, make_generator(2));
  EXPECT_EQ(add_textual_inversion("<toy>", vectors, tokenizer, encoder),
            (std::vector<std::string>{"<toy>", "<toy>_1", "<toy>_2"}));
  EXPECT_EQ(tokenizer.size(), before + 3);
  EXPECT_EQ(encoder->config().vocab_size, before + 3);
  const Tensor grown = encoder->get_input_embeddings().detach();
  expect_equal(grown.slice(0, 0, before), table, "the other rows");
  expect_equal(grown.slice(0, before), vectors, "the new rows");
  EXPECT_EQ(tokenizer.encode("<toy> <toy>_2", false), (std::vector<int64_t>{before, before + 2}));

  const auto refused = [&](const std::string& token, const Tensor& embeddings) {
    add_textual_inversion(token, embeddings, tokenizer, encoder);
  };
  expect_throws_with<ConfigError>([&] { refused("<toy>", vectors); }, "already has the token \"<toy>\"");
  expect_throws_with<ConfigError>([&] { refused("<toy>_1", vectors); }, "already has the token \"<toy>_1\"");
  expect_throws_with<ConfigError>([&] { refused("cat</w>", vectors); }, "already has the token \"cat</w>\"");
  expect_throws_with<TensorError>(
      [&] {
        refused("<new>", at::ones({1, 5}));
      },
      "the embeddings of \"<new>\" are float32 [1, 5] on cpu, expected");
  EXPECT_EQ(tokenizer.size(), before + 3);
  EXPECT_EQ(encoder->config().vocab_size, before + 3);
  CLIPTokenizer other = inversion_tokenizer();
  other.add_tokens({"<x>_1"});
  expect_throws_with<ConfigError>([&] { add_textual_inversion_tokens(other, "<x>", 1); },
                                  "already has the token \"<x>_1\", which prompts with \"<x>\" would use");
  expect_throws_with<ConfigError>([&] { add_textual_inversion_tokens(other, "<y>", 0); }, "num_vectors is 0");
}

TEST(TextualInversion, PromptsGetAllTokens) {
  CLIPTokenizer tokenizer = inversion_tokenizer();
  add_textual_inversion_tokens(tokenizer, "<three>", 3);
  add_textual_inversion_tokens(tokenizer, "<one>", 1);
  EXPECT_EQ(maybe_convert_prompt(std::string("a <three> cat, <three>"), tokenizer),
            "a <three> <three>_1 <three>_2 cat, <three> <three>_1 <three>_2");
  EXPECT_EQ(maybe_convert_prompt(std::string("a <one> cat"), tokenizer), "a <one> cat");
  EXPECT_EQ(maybe_convert_prompt(std::string(), tokenizer), "");
  EXPECT_EQ(maybe_convert_prompt(Texts({"cat", "<three>"}), tokenizer).values(),
            (std::vector<std::string>{"cat", "<three> <three>_1 <three>_2"}));
}

TEST(LearnedTokens, GetTheGradientOfTheirRowsAlone) {
  CLIPTokenizer tokenizer = inversion_tokenizer();
  CLIPTextModel encoder = inversion_encoder();
  const int64_t first = tokenizer.size();
  const Tensor vectors = at::randn({2, encoder->config().hidden_size}, make_generator(3));
  add_textual_inversion("<toy>", vectors, tokenizer, encoder);
  const Tensor ids = tokenizer("a red <toy> <toy>_1 <toy>", {.padding = Padding::kMaxLength}).input_ids;
  const Tensor expected = encoder->forward(ids).last_hidden_state;
  const Tensor weights = at::randn(expected.sizes(), make_generator(4));
  (expected * weights).sum().backward();
  const Tensor table = encoder->get_input_embeddings();
  const Tensor gradient = table.grad().slice(0, first).clone();

  for (const Tensor& parameter : encoder->parameters()) Tensor(parameter).requires_grad_(false);
  const Tensor rows = table.detach().slice(0, first).clone().requires_grad_(true);
  {
    const LearnedTokens learned(encoder, first, rows);
    const Tensor found = encoder->forward(ids).last_hidden_state;
    expect_equal(found.detach(), expected.detach(), "states");
    (found * weights).sum().backward();
  }
  test::expect_close(rows.grad(), gradient, 1e-6, 1e-6, "gradient");
  EXPECT_FALSE(encoder->forward(ids).last_hidden_state.requires_grad());
}

}  // namespace
}  // namespace diffusers

// Textual inversions that Python wrote, and what its pipelines drew with them.

#include <string>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/core/tensor_map.h>
#include <diffusers/io/safetensors.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/pipelines/stable_diffusion_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_xl_pipeline.h>
#include <diffusers/text/clip_text_model.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers::test {
namespace {

template <class Pipeline>
Pipeline inverted_pipeline(const char* folder) {
  auto pipeline = Pipeline::from_pretrained(golden_path(folder));
  pipeline.set_progress_bar_config({.disable = true});
  return pipeline;
}
StableDiffusionPipeline inverted_sd() {
  return inverted_pipeline<StableDiffusionPipeline>("tiny_stable_diffusion");
}
StableDiffusionXLPipeline inverted_xl() {
  return inverted_pipeline<StableDiffusionXLPipeline>("tiny_stable_diffusion_xl");
}

std::string inversion_file(const std::string& name) {
  return golden_path("textual_inversion_files/" + name + ".safetensors");
}

TEST(TextualInversionLoader, ImagesMatchDiffusers) {
  const auto golden = load_golden("fine_tuning.safetensors");
  auto pipeline = inverted_sd();
  EXPECT_EQ(pipeline.load_textual_inversion(inversion_file("one")), std::vector<std::string>{"<one>"});
  EXPECT_EQ(pipeline.load_textual_inversion(golden_path("textual_inversion_files"),
                                            {.weight_name = "three.safetensors"}),
            (std::vector<std::string>{"<three>", "<three>_1", "<three>_2"}));
  EXPECT_EQ(pipeline.load_textual_inversion(inversion_file("webui")),
            (std::vector<std::string>{"webui", "webui_1"}));
  for (const std::string token : {"<one>", "<three>", "webui"})
    expect_close(pipeline({.prompt = "a red " + token + " and a dog",
                           .num_inference_steps = 3,
                           .negative_prompt = "<three>",
                           .generator = make_generator(3)})
                     .images,
                 golden["image." + token], 1e-4, 1e-4, token);

  auto xl = inverted_xl();
  EXPECT_EQ(xl.load_textual_inversion(inversion_file("xl")), (std::vector<std::string>{"xl", "xl_1"}));
  expect_close(
      xl({.prompt = "a red xl and a dog", .num_inference_steps = 3, .generator = make_generator(3)}).images,
      golden["image.xl"], 1e-4, 1e-4, "xl");
}

TEST(TextualInversionLoader, ChoosesTokenAndTextEncoder) {
  auto pipeline = inverted_sd();
  EXPECT_EQ(pipeline.load_textual_inversion(inversion_file("one"), {.token = "<other>"}),
            std::vector<std::string>{"<other>"});
  auto xl = inverted_xl();
  const int64_t before = xl.tokenizer().size();
  xl.load_textual_inversion(inversion_file("xl"), {.text_encoder = "text_encoder_2"});
  EXPECT_EQ(xl.tokenizer().size(), before);
  EXPECT_EQ(xl.tokenizer_2().size(), before + 2);
  EXPECT_EQ(xl.text_encoder_2()->config().vocab_size, before + 2);
  EXPECT_EQ(xl.text_encoder()->config().vocab_size, before);
  xl.load_textual_inversion(inversion_file("xl"), {.text_encoder = "text_encoder"});
  EXPECT_EQ(xl.tokenizer().size(), before + 2);
}

TEST(TextualInversionLoader, SavedFoldersHaveTheTokens) {
  const TemporaryFolder folder;
  auto pipeline = inverted_sd();
  pipeline.load_textual_inversion(inversion_file("three"));
  const StableDiffusionPipelineOptions options{
      .prompt = "a <three>", .num_inference_steps = 2, .generator = make_generator(1)};
  const Tensor image = pipeline(options).images;
  pipeline.save_pretrained(folder.path());
  auto again = StableDiffusionPipeline::from_pretrained(folder.path());
  again.set_progress_bar_config({.disable = true});
  expect_equal(
      again({.prompt = "a <three>", .num_inference_steps = 2, .generator = make_generator(1)}).images, image,
      "image");
}

TEST(TextualInversionLoader, WhatDoesNotFitIsNamed) {
  auto pipeline = inverted_sd();
  const int64_t before = pipeline.tokenizer().size();
  const auto load = [&](const std::string& path, const LoadTextualInversionOptions& options = {}) {
    pipeline.load_textual_inversion(path, options);
  };
  expect_throws_with<FileError>(
      [&] { load(inversion_file("xl")); },
      "embeddings of text_encoder_2, which the pipeline does not have; an inversion of "
      "Stable Diffusion XL needs a pipeline of it");
  expect_throws_with<ConfigError>([&] { load(inversion_file("one"), {.text_encoder = "unet"}); },
                                  "text_encoder is \"unet\"");
  expect_throws_with<ConfigError>([&] { load(inversion_file("one"), {.token = "cat</w>"}); },
                                  "already has the token \"cat</w>\"");
  const TemporaryFolder folder;
  TensorMap wide;
  wide.insert("<wide>", at::ones({1, 17}));
  save_safetensors(wide, folder / "wide.safetensors");
  expect_throws_with<FileError>([&] { load(folder / "wide.safetensors"); },
                                "the embeddings are float32 [1, 17] on cpu, expected [vectors, 16], the "
                                "hidden_size of text_encoder");
  EXPECT_EQ(pipeline.tokenizer().size(), before);
  EXPECT_EQ(pipeline.text_encoder()->config().vocab_size, before);
  load(inversion_file("one"));
  expect_throws_with<ConfigError>([&] { load(inversion_file("one")); }, "already has the token \"<one>\"");

  // Neither text encoder changes if the tokens of one are taken.
  auto xl = inverted_xl();
  xl.tokenizer_2().add_tokens({"xl_1"});
  expect_throws_with<ConfigError>([&] { xl.load_textual_inversion(inversion_file("xl")); },
                                  "already has the token \"xl_1\"");
  EXPECT_EQ(xl.tokenizer().size(), before);
}

}  // namespace
}  // namespace diffusers::test

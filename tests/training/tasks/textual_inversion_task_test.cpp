// TextualInversionTask against ten steps of Python's scripts, and what it checks, writes and leaves as it is.

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include <diffusers/data/textual_inversion_dataset.h>
#include <diffusers/io/files.h>
#include <diffusers/text/textual_inversion.h>
#include <diffusers/training/textual_inversion_task.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"
#include "support/log_capture.h"
#include "training/tiny_text_to_image.h"

namespace diffusers {
namespace {

using test::expect_equal;
using test::expect_resumes_bit_for_bit;
using test::expect_throws_with;
using test::load_golden;
using test::LogCapture;
using test::parity_config;
using test::parity_samples;
using test::TemporaryFolder;
using test::tiny_text_to_image;
using test::TinyTextToImage;

std::shared_ptr<TextualInversionTask> make_inversion_task(const TinyTextToImage& kind = {},
                                                          int64_t vectors = 1,
                                                          const DiffusionTaskOptions& diffusion = {}) {
  return std::make_shared<TextualInversionTask>(tiny_text_to_image(kind),
                                                TextualInversionTaskOptions{.placeholder_token = "<toy>",
                                                                            .initializer_token = "cat",
                                                                            .num_vectors = vectors,
                                                                            .diffusion = diffusion});
}

/// The images of the trajectories with captions that contain the placeholder.
Batch inversion_samples(const std::string& placeholder) {
  Batch samples = parity_samples(load_golden("text_to_image.safetensors"));
  samples.masks = Tensor();
  samples.conditioning_images = Tensor();
  samples.captions.clear();
  const auto golden = load_golden("fine_tuning.safetensors");
  const auto captions = nlohmann::json::parse(golden.metadata.at("captions"));
  for (int64_t i = 0; i < samples.images.size(0); ++i) {
    auto text = captions[static_cast<std::size_t>(i) % captions.size()].get<std::string>();
    samples.captions.push_back(text.replace(text.find("{}"), 2, placeholder));
  }
  return samples;
}

TrainingConfig inversion_config(const std::string& folder) {
  TrainingConfig config = parity_config(folder);
  config.max_grad_norm = 0;  // the script does not clip
  return config;
}

TEST(TextualInversionTask, FollowsThePythonScripts) {
  const auto golden = load_golden("fine_tuning.safetensors");
  struct Case {
    const char* name;
    TinyTextToImage kind;
    int64_t vectors;
  };
  const Case cases[] = {
      {"one", {}, 1}, {"three", {.prediction_type = "v_prediction"}, 3}, {"xl", {.is_xl = true}, 2}};
  const LogCapture log;
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble})
    for (const Case& one : cases)
      for (const bool is_changed : {false, true}) {
        const TemporaryFolder folder;
        TrainingConfig config = inversion_config(folder.path());
        // None changes the result.
        config.gradient_checkpointing = is_changed;
        config.cpu_data_parallel = is_changed ? 2 : 1;
        config.gradient_accumulation_steps = is_changed ? 2 : 1;
        config.train_batch_size = is_changed ? 2 : 4;
        TinyTextToImage kind = one.kind;
        kind.dtype = dtype;
        const auto task = make_inversion_task(kind, one.vectors);
        test::expect_trajectory(one.name, task, config, inversion_samples(task->placeholder()), dtype,
                                golden);
      }
}

TEST(TextualInversionTask, ChangesNothingButTheNewRows) {
  const LogCapture log;
  const TemporaryFolder folder;
  TrainingConfig config = inversion_config(folder.path());
  config.checkpointing_steps = 10;
  const auto task = make_inversion_task({}, 2);
  const TextToImageModels before = tiny_text_to_image();
  EXPECT_EQ(task->placeholder(), "<toy> <toy>_1");
  Trainer trainer(task, config);
  Tensor at_step_5;
  trainer.on_step([&](int64_t step) {
    if (step != 5) return;
    task->save_learned_embeds(folder / "learned_embeds-steps-5.safetensors");
    at_step_5 = task->learned_embeds().detach().clone();
  });
  trainer.train(TensorDataset(inversion_samples(task->placeholder())),
                TensorDataset(inversion_samples(task->placeholder())));

  const Tensor table = task->models().text_encoder->get_input_embeddings().detach();
  const int64_t old_size = before.tokenizer.size();
  expect_equal(table.slice(0, 0, old_size), before.text_encoder->get_input_embeddings().detach(),
               "other rows");
  expect_equal(table.slice(0, old_size), task->learned_embeds().detach(), "new rows");
  const int64_t cat = before.tokenizer.encode("cat", false).front();
  EXPECT_FALSE(at::equal(table[old_size], table[cat]));
  for (std::size_t i = 0; i < before.unet->parameters().size(); ++i)
    expect_equal(task->models().unet->parameters()[i], before.unet->parameters()[i]);
  for (const auto& item : before.text_encoder->named_parameters())
    if (item.key() != "embeddings.token_embedding.weight")
      expect_equal(task->models().text_encoder->named_parameters()[item.key()], item.value(), item.key());

  // The files: embeddings, the same in the pipeline folder, and those of an earlier step.
  const TextualInversionFile learned = read_textual_inversion(folder.path());
  EXPECT_EQ(learned.token, "<toy>");
  expect_equal(learned.embeddings, task->learned_embeds().detach(), "learned_embeds");
  expect_equal(read_textual_inversion(folder / "learned_embeds-steps-5.safetensors").embeddings, at_step_5,
               "step 5");
  EXPECT_EQ(read_textual_inversion(folder / "checkpoint-10/textual_inversion").embeddings.size(0), 2);
  const TextToImageModels saved = TextToImageModels::from_pretrained(folder.path());
  EXPECT_EQ(saved.tokenizer.size(), old_size + 2);
  expect_equal(saved.text_encoder->get_input_embeddings().detach(), table, "saved table");
  EXPECT_EQ(saved.tokenizer.encode("<toy> <toy>_1", false), (std::vector<int64_t>{old_size, old_size + 1}));
}

TEST(TextualInversionTask, WritesTheEmbeddingsAloneWhenAsked) {
  const LogCapture log;
  const TemporaryFolder folder;
  TrainingConfig config = inversion_config(folder.path());
  config.max_train_steps = 1;
  const auto task = std::make_shared<TextualInversionTask>(
      tiny_text_to_image(),
      TextualInversionTaskOptions{
          .placeholder_token = "<toy>", .initializer_token = "cat", .save_as_full_pipeline = false});
  Trainer(task, config).train(TensorDataset(inversion_samples("<toy>")));
  EXPECT_TRUE(file_exists(folder / "learned_embeds.safetensors"));
  EXPECT_FALSE(file_exists(folder / "model_index.json"));
  EXPECT_FALSE(folder_exists(folder / "unet"));
  // Another training there removes the files of this one.
  task->save_learned_embeds(folder / "learned_embeds-steps-500.safetensors");
  expect_throws_with<Error>(
      [&] { Trainer(make_inversion_task(), config).train(TensorDataset(inversion_samples("<toy>"))); },
      "textual_inversion");
  config.overwrite_output_dir = true;
  Trainer(make_inversion_task(), config).train(TensorDataset(inversion_samples("<toy>")));
  EXPECT_FALSE(file_exists(folder / "learned_embeds-steps-500.safetensors"));
}

TEST(TextualInversionTask, TrainsOnTheDatasetOfTheScript) {
  const LogCapture log;
  const TemporaryFolder folder;
  TrainingConfig config = inversion_config(folder.path());
  config.max_train_steps = 2;
  const auto task = make_inversion_task({}, 2);
  const auto images = std::make_shared<TensorDataset>(inversion_samples("x").images);
  EXPECT_TRUE(Trainer(task, config)
                  .train(TextualInversionDataset(images, {.placeholder = task->placeholder(), .repeats = 3}))
                  .is_complete);
}

TEST(TextualInversionTask, ResumesBitForBit) {
  const LogCapture log;
  expect_resumes_bit_for_bit([] { return make_inversion_task({}, 2); }, inversion_samples("<toy> <toy>_1"),
                             {"textual_inversion/learned_embeds.safetensors", "optimizer.safetensors"});
}

TEST(TextualInversionTask, ResumesWithTheSameOptionsOnly) {
  const LogCapture log;
  const TemporaryFolder folder;
  TrainingConfig config = inversion_config(folder.path());
  config.max_train_steps = 2;
  config.checkpointing_steps = 1;
  const auto train = [&](const std::string& placeholder, const std::string& initializer) {
    const auto task = std::make_shared<TextualInversionTask>(
        tiny_text_to_image(),
        TextualInversionTaskOptions{.placeholder_token = placeholder, .initializer_token = initializer});
    Trainer(task, config).train(TensorDataset(inversion_samples(placeholder)));
  };
  train("<toy>", "cat");
  config.max_train_steps = 3;
  config.resume_from_checkpoint = "latest";
  expect_throws_with<ConfigError>([&] { train("<other>", "cat"); }, "placeholder_token");
  expect_throws_with<ConfigError>([&] { train("<toy>", "dog"); }, "initializer_token");
}

TEST(TextualInversionTask, WhatDoesNotFitIsNamed) {
  const LogCapture log;
  const TextToImageModels models = tiny_text_to_image();
  const auto make = [&](const TextualInversionTaskOptions& options) {
    TextualInversionTask task(models, options);
  };
  expect_throws_with<ConfigError>([&] { make({.initializer_token = "cat"}); }, "placeholder_token is empty");
  expect_throws_with<ConfigError>([&] { make({.placeholder_token = "<toy>"}); },
                                  "initializer_token is empty");
  expect_throws_with<ConfigError>([&] { make({.placeholder_token = "<toy>", .initializer_token = " "}); },
                                  "initializer_token is \" \", which has no tokens");
  expect_throws_with<ConfigError>(
      [&] { make({.placeholder_token = "<toy>", .initializer_token = "red cat"}); },
      "initializer_token is \"red cat\", which has 2 tokens, [red</w>, cat</w>]; expected a word of one "
      "token");
  expect_throws_with<ConfigError>([&] { make({.placeholder_token = "cat</w>", .initializer_token = "cat"}); },
                                  "already has the token \"cat</w>\"");
  expect_throws_with<ConfigError>(
      [&] { make({.placeholder_token = "<toy>", .initializer_token = "cat", .num_vectors = 0}); },
      "num_vectors is 0");
  expect_throws_with<ConfigError>(
      [&] {
        make({.placeholder_token = "<toy>",
              .initializer_token = "cat",
              .diffusion = {.conditioning = [](const Batch&) { return Conditioning(); }}});
      },
      "diffusion.conditioning is set");
  TextToImageModels incomplete = models;
  incomplete.vae = nullptr;
  expect_throws_with<ConfigError>(
      [&] {
        TextualInversionTask task(incomplete, {.placeholder_token = "<toy>", .initializer_token = "cat"});
      },
      "\"vae\" is missing");
  const TemporaryFolder folder;
  TrainingConfig averaging = inversion_config(folder.path());
  averaging.use_ema = true;
  expect_throws_with<ConfigError>([&] { Trainer(make_inversion_task(), averaging); },
                                  "use_ema is true, but the task averages none of its 1 modules");
  expect_throws_with<ConfigError>(
      [&] {
        Trainer(make_inversion_task({}, 2), inversion_config(folder.path()))
            .train(TensorDataset(inversion_samples("<toy>")));
      },
      "<toy>\", which does not contain \"<toy> <toy>_1\"");
}

}  // namespace
}  // namespace diffusers

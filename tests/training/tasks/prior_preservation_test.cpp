// DreamBooth: prior preservation against ten steps of Python's scripts, and its checks.

#include "training/tasks/prior_preservation.h"

#include <memory>
#include <string>
#include <vector>

#include <diffusers/data/dreambooth_dataset.h>
#include <diffusers/io/image.h>
#include <diffusers/training/text_to_image_lora_task.h>
#include <diffusers/training/text_to_image_task.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"
#include "support/log_capture.h"
#include "training/tiny_text_to_image.h"

namespace diffusers {
namespace {

using test::expect_close;
using test::expect_resumes_bit_for_bit;
using test::expect_throws_with;
using test::kParityBatch;
using test::load_golden;
using test::LogCapture;
using test::parity_config;
using test::TemporaryFolder;
using test::tiny_text_to_image;
using test::TinyTextToImage;

/// Batches of two instances and two class images.
/// @param in_pairs orders them for batches of one instance and one class image
Batch dreambooth_samples(bool in_pairs = false) {
  Batch samples = test::parity_samples(load_golden("text_to_image.safetensors"));
  samples.masks = samples.conditioning_images = Tensor();
  const int64_t count = samples.size();
  samples.is_prior = at::arange(count) % kParityBatch >= kParityBatch / 2;
  samples.captions.clear();
  for (const auto& caption :
       nlohmann::json::parse(load_golden("dreambooth.safetensors").metadata.at("captions")))
    samples.captions.push_back(caption.get<std::string>());
  if (!in_pairs) return samples;
  std::vector<Batch> rows;
  for (int64_t i = 0; i < count; i += kParityBatch)
    for (const int64_t row : {0, 2, 1, 3}) rows.push_back(samples.slice(i + row, i + row + 1));
  return collate(rows);
}

std::shared_ptr<Task> dreambooth_task(const TinyTextToImage& kind, bool is_lora, bool trains_text,
                                      double prior_loss_weight) {
  const TextToImageModels models = tiny_text_to_image(kind);
  manual_seed(3);
  if (is_lora)
    return std::make_shared<TextToImageLoraTask>(
        models, TextToImageLoraTaskOptions{.train_text_encoder = trains_text,
                                           .prior_loss_weight = prior_loss_weight});
  return std::make_shared<TextToImageTask>(
      models,
      TextToImageTaskOptions{.train_text_encoder = trains_text, .prior_loss_weight = prior_loss_weight});
}

TEST(PriorPreservation, FollowsThePythonScripts) {
  const auto golden = load_golden("dreambooth.safetensors");
  struct Case {
    const char* name;
    TinyTextToImage kind;
    bool is_lora, trains_text;
    double prior_loss_weight;
    double noise_offset = 0;
  };
  const Case cases[] = {{"unet", {}, false, false, 1.0, 0.1},
                        {"text", {}, false, true, 0.7},
                        {"lora", {.prediction_type = "v_prediction"}, true, false, 0.7},
                        {"lora_text", {}, true, true, 1.0},
                        {"lora_xl", {.is_xl = true}, true, false, 0.7}};
  const LogCapture log;
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble})
    for (const Case& one : cases)
      for (const bool is_changed : {false, true}) {
        const TemporaryFolder folder;
        TrainingConfig config = parity_config(folder.path());
        config.noise_offset = one.noise_offset;
        // None changes the result: two batches of a pair draw what one of two pairs draws.
        config.gradient_checkpointing = is_changed;
        config.gradient_accumulation_steps = is_changed ? 2 : 1;
        config.train_batch_size = is_changed ? 2 : 4;
        TinyTextToImage kind = one.kind;
        kind.dtype = dtype;
        test::expect_trajectory(one.name,
                                dreambooth_task(kind, one.is_lora, one.trains_text, one.prior_loss_weight),
                                config, dreambooth_samples(is_changed), dtype, golden);
      }
}

TEST(PriorPreservation, ResumesBitForBit) {
  const LogCapture log;
  expect_resumes_bit_for_bit([] { return dreambooth_task({}, false, true, 0.5); }, dreambooth_samples(),
                             {"unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors",
                              "optimizer.safetensors", "trainer_state.safetensors"});
  expect_resumes_bit_for_bit(
      [] { return dreambooth_task({}, true, true, 0.5); }, dreambooth_samples(),
      {"unet_lora/pytorch_lora_weights.safetensors", "text_encoder_lora/pytorch_lora_weights.safetensors",
       "optimizer.safetensors", "trainer_state.safetensors"});
}

TEST(PriorPreservation, LossesAreTheMeanOfTheInstancesAndTheWeightedMeanOfTheClass) {
  const Tensor losses = at::tensor({1.0, 2.0, 6.0, 10.0}, at::kDouble);
  const auto mean = [&](const std::vector<int64_t>& prior, double weight) {
    const Tensor is_prior = at::tensor(prior, at::kLong).to(at::kBool);
    return weigh_prior(losses, is_prior, weight).mean().item<double>();
  };
  EXPECT_DOUBLE_EQ(mean({0, 0, 1, 1}, 0.5), 1.5 + 0.5 * 8);
  EXPECT_DOUBLE_EQ(mean({1, 0, 0, 0}, 2.0), 6 + 2.0 * 1);
  EXPECT_DOUBLE_EQ(mean({0, 0, 0, 0}, 2.0), 4.75);
  EXPECT_DOUBLE_EQ(mean({1, 1, 1, 1}, 2.0), 2 * 4.75);
  expect_close(weigh_prior(losses, {}, 2.0), losses, 0, 0, "without class images");
}

TEST(PriorPreservation, TrainsOnADreamBoothDataset) {
  const LogCapture log;
  const TemporaryFolder folder;
  std::filesystem::create_directories(folder / "one");
  std::filesystem::create_directories(folder / "class");
  for (int i = 0; i < 5; ++i) {
    if (i < 2) save_image(at::rand({3, 16, 20}), folder / ("one/" + std::to_string(i) + ".png"));
    save_image(at::rand({3, 20, 16}), folder / ("class/" + std::to_string(i) + ".png"));
  }
  const DreamBoothDataset data(folder / "one", {.instance_prompt = "a red cat",
                                                .class_data_dir = folder / "class",
                                                .class_prompt = "cat",
                                                .resolution = 16});
  TrainingConfig config = parity_config(folder / "out");
  config.num_epochs = 1;
  config.train_batch_size = 2;
  EXPECT_EQ(Trainer(dreambooth_task({}, true, false, 0.5), config).train(data).global_step, 3);
  config.output_dir = folder / "held_out";
  expect_throws_with<ConfigError>(
      [&] { Trainer(dreambooth_task({}, true, false, 0.5), config).train(data, data); },
      "class images (Batch::is_prior); expected one row for each sample");
}

TEST(PriorPreservation, OptionsAndBatchesAreChecked) {
  const LogCapture log;
  for (const bool is_lora : {false, true}) {
    expect_throws_with<ConfigError>([&] { dreambooth_task({}, is_lora, false, -1); },
                                    "prior_loss_weight is -1, expected 0 or more");
    const TemporaryFolder folder;
    Batch samples = dreambooth_samples();
    const auto train = [&] {
      TrainingConfig config = parity_config(folder.path());
      config.max_train_steps = 1;
      Trainer(dreambooth_task({}, is_lora, false, 0.5), config).train(TensorDataset(samples));
    };
    samples.is_prior = samples.is_prior.to(at::kFloat);
    expect_throws_with<TensorError>(train, "expected bool [4]");
    samples.is_prior = Tensor();
    expect_throws_with<ConfigError>(train, "prior_loss_weight is 0.5, but the dataset gives no class images");
  }
}

TEST(PriorPreservation, BatchesOfPairsAreFound) {
  const Batch samples = dreambooth_samples();
  EXPECT_TRUE(have_class_images({samples.slice(0, 4), samples.slice(4, 8)}));
  EXPECT_TRUE(have_class_images({samples.slice(1, 3)}));
  EXPECT_FALSE(have_class_images({samples.slice(0, 4), samples.slice(5, 9)}));
  EXPECT_FALSE(have_class_images({samples.slice(1, 4)}));
  EXPECT_FALSE(have_class_images({{.images = samples.images}}));
}

}  // namespace
}  // namespace diffusers

// The cached embeddings of captions: each caption is encoded once, and trainings are those without the cache.

#include "training/tasks/text_embedding_cache.h"

#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/training/controlnet_task.h>
#include <diffusers/training/text_to_image_task.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"
#include "support/log_capture.h"
#include "training/tiny_text_to_image.h"

namespace diffusers {
namespace {

using test::expect_close;
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

constexpr const char* kCachedTextGolden = "text_to_image.safetensors";

TEST(TextEmbeddingCache, EncodesEachCaptionOnce) {
  TextEmbeddingCache cache;
  std::vector<std::string> encoded;
  const auto encode = [&](const std::string& caption) {
    encoded.push_back(caption);
    const auto value = static_cast<double>(caption.size());
    return PooledPromptEmbeds{.hidden_states = at::full({1, 2, 3}, value),
                              .pooled = at::full({1, 4}, -value)};
  };
  const PooledPromptEmbeds first = cache.get({"cat", "a dog", "cat"}, encode);
  EXPECT_EQ(first.hidden_states.sizes(), (std::vector<int64_t>{3, 2, 3}));
  expect_equal(first.hidden_states.select(2, 0).select(1, 0), at::tensor({3.0F, 5.0F, 3.0F}));
  expect_equal(first.pooled.select(1, 3), at::tensor({-3.0F, -5.0F, -3.0F}));
  EXPECT_EQ(encoded, (std::vector<std::string>{"cat", "a dog"}));
  cache.get({"", "a dog"}, encode);
  EXPECT_EQ(encoded, (std::vector<std::string>{"cat", "a dog", ""}));
  cache.clear();
  cache.get({"cat"}, encode);
  EXPECT_EQ(encoded.size(), 4U);
}

TEST(TextEmbeddingCache, StableDiffusion1HasNoPooledEmbeddings) {
  TextEmbeddingCache cache;
  const auto encode = [](const std::string&) {
    return PooledPromptEmbeds{.hidden_states = at::ones({1, 2, 3}), .pooled = {}};
  };
  EXPECT_FALSE(cache.get({"cat"}, encode).pooled.defined());
}

/// Tasks of all kinds that encode captions.
struct CachedTextCase {
  const char* name;  ///< of the trajectory of Python's script
  TinyTextToImage kind = {};
  double proportion_empty_prompts = 0.0;
  bool is_controlnet = false;

  std::shared_ptr<Task> task(bool is_cached, at::ScalarType dtype = at::kFloat) const {
    TinyTextToImage with_dtype = kind;
    with_dtype.dtype = dtype;
    if (!is_controlnet)
      return std::make_shared<TextToImageTask>(
          tiny_text_to_image(with_dtype),
          TextToImageTaskOptions{.proportion_empty_prompts = proportion_empty_prompts,
                                 .cache_text_embeddings = is_cached});
    const TextToImageModels models = tiny_text_to_image(kind);
    manual_seed(3);
    ControlNetModel controlnet =
        ControlNetModel::from_unet(models.unet, {.conditioning_embedding_out_channels = {4, 8}});
    controlnet->to(dtype);
    return std::make_shared<ControlNetTask>(
        tiny_text_to_image(with_dtype), controlnet,
        ControlNetTaskOptions{.proportion_empty_prompts = proportion_empty_prompts,
                              .cache_text_embeddings = is_cached,
                              .crops_coords_top_left_h = kind.is_xl ? 3 : 0,
                              .crops_coords_top_left_w = kind.is_xl ? 5 : 0});
  }
  Batch samples() const {
    Batch samples = parity_samples(load_golden(kCachedTextGolden));
    if (!is_controlnet) samples.conditioning_images = Tensor();
    if (kind.in_channels != 9) samples.masks = Tensor();
    return samples;
  }
};

std::vector<CachedTextCase> cached_text_cases() {
  return {{"epsilon"},
          {"inpainting", {.in_channels = 9}},
          {"xl", {.is_xl = true}, 0.3},
          {"controlnet", {}, 0.5, /*is_controlnet=*/true},
          {"controlnet_xl", {.is_xl = true}, 0.0, /*is_controlnet=*/true}};
}

TEST(TextEmbeddingCache, TrainingsFollowThePythonScripts) {
  const auto golden = load_golden(kCachedTextGolden);
  for (const CachedTextCase& one : cached_text_cases())
    for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) {
      SCOPED_TRACE(one.name);
      const LogCapture log;
      const TemporaryFolder folder;
      test::expect_trajectory(one.name, one.task(/*is_cached=*/true, dtype), parity_config(folder.path()),
                              one.samples(), dtype, golden);
    }
}

/// The weights after a short training.
/// @param after_epoch is called after the first epoch
Tensor trained_weights(const std::shared_ptr<Task>& task, const Batch& samples, int64_t batch_size,
                       const std::function<void()>& after_epoch = {}) {
  const LogCapture log;
  const TemporaryFolder folder;
  TrainingConfig config = parity_config(folder.path());
  config.train_batch_size = batch_size;
  config.max_train_steps = 2 * samples.size() / batch_size;
  Trainer trainer(task, config);
  trainer.on_step([&](int64_t step) {
    if (after_epoch && step == samples.size() / batch_size) after_epoch();
  });
  trainer.train(TensorDataset(samples));
  return test::flat_parameters(task->trained());
}

TEST(TextEmbeddingCache, BatchesOfOneSampleAreThoseWithoutTheCacheBitForBit) {
  for (CachedTextCase one : cached_text_cases()) {
    SCOPED_TRACE(one.name);
    one.proportion_empty_prompts = 0.3;
    const Batch samples = one.samples().slice(0, 4);
    expect_equal(trained_weights(one.task(/*is_cached=*/true), samples, 1),
                 trained_weights(one.task(/*is_cached=*/false), samples, 1));
  }
}

TEST(TextEmbeddingCache, LargerBatchesDifferByRounding) {
  for (CachedTextCase one : cached_text_cases()) {
    SCOPED_TRACE(one.name);
    one.proportion_empty_prompts = 0.3;
    const Batch samples = one.samples().slice(0, 8);
    expect_close(trained_weights(one.task(/*is_cached=*/true), samples, 4),
                 trained_weights(one.task(/*is_cached=*/false), samples, 4), 0, 1e-4);
  }
}

TEST(TextEmbeddingCache, ALaterEpochDoesNotRunTheTextEncoders) {
  for (const bool is_xl : {false, true}) {
    const CachedTextCase one{"", {.is_xl = is_xl}, 0.3};
    const Batch samples = one.samples().slice(0, 8);
    const auto task = one.task(/*is_cached=*/true);
    const Tensor weights = trained_weights(task, samples, 4, [&] {
      for (const NamedModule& named : task->frozen())
        if (named.name.starts_with("text_encoder"))
          for (Tensor& parameter : named.module->module().parameters())
            parameter.detach().fill_(std::numeric_limits<double>::quiet_NaN());
    });
    expect_equal(weights, trained_weights(one.task(/*is_cached=*/true), samples, 4));
  }
}

TEST(TextEmbeddingCache, ATrainingIsResumedBitForBit) {
  const LogCapture log;
  const CachedTextCase one{"", {.is_xl = true}, 0.3};
  expect_resumes_bit_for_bit([&] { return one.task(/*is_cached=*/true); }, one.samples().slice(0, 12),
                             {"unet/diffusion_pytorch_model.safetensors", "optimizer.safetensors"});
}

/// Gives access to the inputs of the UNet.
class OpenCachedTask : public TextToImageTask {
 public:
  using TextToImageTask::conditioning;
  using TextToImageTask::TextToImageTask;
};

TEST(TextEmbeddingCache, ANewTrainingEncodesAnew) {
  const TextToImageModels models = tiny_text_to_image();
  OpenCachedTask task(models, {.cache_text_embeddings = true});
  task.configure({});
  Batch batch = CachedTextCase{""}.samples().slice(0, 2);
  const Tensor before = task.conditioning(batch).encoder_hidden_states;
  expect_close(before, OpenCachedTask(models).conditioning(batch).encoder_hidden_states, 0, 1e-6);
  const at::NoGradGuard no_grad;
  for (Tensor& parameter : models.text_encoder->parameters()) parameter.mul_(2);
  expect_equal(task.conditioning(batch).encoder_hidden_states, before);
  task.configure({});
  EXPECT_FALSE(at::allclose(task.conditioning(batch).encoder_hidden_states, before));
}

TEST(TextEmbeddingCache, TrainedTextEncodersAreRefused) {
  expect_throws_with<ConfigError>(
      [] {
        TextToImageTask task(tiny_text_to_image(),
                             {.train_text_encoder = true, .cache_text_embeddings = true});
      },
      "cache_text_embeddings and train_text_encoder are both true");
}

}  // namespace
}  // namespace diffusers

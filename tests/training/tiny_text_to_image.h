#pragma once

// Tiny Stable Diffusion models, and the data and trajectories of tests/reference/text_to_image.py.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/config_overrides.h>
#include <diffusers/core/random.h>
#include <diffusers/data/tensor_dataset.h>
#include <diffusers/io/files.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/text_to_image_models.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"
#include "training/quick_training.h"

namespace diffusers::test {

inline constexpr int64_t kParitySteps = 10;
inline constexpr int64_t kParityBatch = 4;

/// What differs from a UNet of Stable Diffusion 1.x that predicts epsilon.
struct TinyTextToImage {
  bool is_xl = false;
  int64_t in_channels = 4;
  const char* prediction_type = "epsilon";
  at::ScalarType dtype = at::kFloat;
};

inline UNet2DConditionModelConfig tiny_unet_config(const TinyTextToImage& kind = {}) {
  UNet2DConditionModelConfig config{.sample_size = 8,
                                    .in_channels = kind.in_channels,
                                    .out_channels = 4,
                                    .down_block_types = {"DownBlock2D", "CrossAttnDownBlock2D"},
                                    .up_block_types = {"CrossAttnUpBlock2D", "UpBlock2D"},
                                    .block_out_channels = {4, 8},
                                    .layers_per_block = 1,
                                    .norm_num_groups = 2,
                                    .cross_attention_dim = kind.is_xl ? 32 : 16,
                                    .attention_head_dim = 2};
  if (kind.is_xl) {
    config.addition_embed_type = AdditionEmbedType::kTextTime;
    config.addition_time_embed_dim = 4;
    config.projection_class_embeddings_input_dim = 32;
  }
  return config;
}

/// VAE, text encoder and tokenizer of tests/golden/tiny_stable_diffusion, and a UNet with Python's weights.
inline TextToImageModels tiny_text_to_image(const TinyTextToImage& kind = {}) {
  const std::string folder = golden_path("tiny_stable_diffusion");
  TextToImageModels models{
      .tokenizer = CLIPTokenizer::from_pretrained(folder, {.subfolder = "tokenizer"}),
      .text_encoder =
          CLIPTextModel::from_pretrained(folder, {.subfolder = "text_encoder", .dtype = kind.dtype}),
      .vae = AutoencoderKL::from_pretrained(folder, {.subfolder = "vae", .dtype = kind.dtype})};
  const auto saved = Scheduler::from_pretrained(folder, {.subfolder = "scheduler"});
  models.scheduler =
      Scheduler::from_config(saved->config_json(), {{"prediction_type", kind.prediction_type}});
  manual_seed(1);
  models.unet = UNet2DConditionModel(tiny_unet_config(kind));
  models.unet->to(kind.dtype);
  if (!kind.is_xl) return models;
  models.tokenizer_2 = models.tokenizer;
  manual_seed(2);
  models.text_encoder_2 = CLIPTextModelWithProjection({.vocab_size = models.tokenizer.size(),
                                                       .hidden_size = 16,
                                                       .intermediate_size = 32,
                                                       .projection_dim = 8,
                                                       .num_hidden_layers = 2,
                                                       .num_attention_heads = 2,
                                                       .bos_token_id = models.tokenizer.bos_token_id(),
                                                       .eos_token_id = models.tokenizer.eos_token_id()});
  models.text_encoder_2->to(kind.dtype);
  return models;
}

/// The fields of a batch that these trainings use, of the trajectories' data.
inline Batch parity_samples(const Golden& golden) {
  Batch samples{.images = golden["images"],
                .conditioning_images = golden["conditioning_images"],
                .masks = golden["masks"],
                .original_sizes = golden["original_sizes"],
                .crop_top_lefts = golden["crop_top_lefts"]};
  for (const auto& caption : nlohmann::json::parse(golden.metadata.at("captions")))
    samples.captions.push_back(caption.get<std::string>());
  return samples;
}

/// Gives the samples in their order, whatever positions are asked for. For one pass.
class InOrder : public TensorDataset {
 public:
  using TensorDataset::TensorDataset;
  Batch get_batch(std::span<const int64_t> indices, uint64_t) const override {
    const int64_t first = next_.fetch_add(static_cast<int64_t>(indices.size()));
    return samples().slice(first, first + static_cast<int64_t>(indices.size()));
  }

 private:
  mutable std::atomic<int64_t> next_ = 0;
};

/// The flags of tests/reference/text_to_image.py.
inline TrainingConfig parity_config(const std::string& output_dir) {
  TrainingConfig config = quiet_config(output_dir);
  config.seed = 7;
  config.train_batch_size = kParityBatch;
  config.learning_rate = 1e-3;
  config.adam_beta1 = 0.9;
  config.adam_weight_decay = 1e-2;
  config.adam_epsilon = 1e-6;
  config.tensorboard = false;
  config.report = false;
  return config;
}

/// Trains five steps as a whole, and in two parts with a stop after the second step, and expects the same
/// files in checkpoint-5.
/// @param make_task makes the task with its initial weights
/// @param files names in the folder of the checkpoint
inline void expect_resumes_bit_for_bit(const std::function<std::shared_ptr<Task>()>& make_task,
                                       const Batch& samples, const std::vector<std::string>& files) {
  const auto train_until = [&](const std::string& folder, int64_t stop, bool resumes) {
    TrainingConfig config = parity_config(folder);
    config.max_train_steps = 5;
    config.checkpointing_steps = 5;
    if (resumes) config.resume_from_checkpoint = "latest";
    Trainer trainer(make_task(), config);
    trainer.on_step([&](int64_t step) {
      if (step == stop) trainer.request_stop();
    });
    return trainer.train(TensorDataset(samples)).is_complete;
  };
  const TemporaryFolder whole;
  EXPECT_TRUE(train_until(whole.path(), -1, false));
  const TemporaryFolder parts;
  EXPECT_FALSE(train_until(parts.path(), 2, false));
  EXPECT_TRUE(train_until(parts.path(), -1, true));
  for (const std::string& name : files)
    EXPECT_EQ(read_text_file(join_path(parts / "checkpoint-5", name)),
              read_text_file(join_path(whole / "checkpoint-5", name)))
        << name;
}

/// All parameters, sorted by name.
inline Tensor flat_parameters(const std::vector<NamedModule>& modules) {
  std::vector<Tensor> parts;
  for (const NamedModule& named : modules) {
    std::map<std::string, Tensor> by_name;
    for (const auto& item : named.module->module().named_parameters()) by_name[item.key()] = item.value();
    for (const auto& entry : by_name) parts.push_back(entry.second.detach().flatten());
  }
  return at::cat(parts);
}

/// Trains on the trajectories' data and compares losses and final weights: to 1e-4, in float64 to 1e-9.
inline void expect_trajectory(const std::string& name, const std::shared_ptr<Task>& task,
                              const TrainingConfig& config, const Batch& samples, at::ScalarType dtype,
                              const Golden& golden) {
  const std::string key = name + (dtype == at::kDouble ? ".float64" : ".float32");
  const double tolerance = dtype == at::kDouble ? 1e-9 : 1e-4;
  Trainer trainer(task, config);
  std::vector<double> losses;
  trainer.on_log([&](const TrainingProgress& progress) { losses.push_back(progress.loss); });
  trainer.train(InOrder(samples));
  expect_close(at::tensor(losses, at::kDouble), golden[key + ".losses"], 0, tolerance, key + ".losses");
  expect_close(flat_parameters(task->trained()), golden[key + ".weights"], 0, tolerance, key + ".weights");
}

}  // namespace diffusers::test

// A UNet2DConditionModel is trained with the text embeddings of a user's dataset.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"
#include "training/quick_training.h"

namespace diffusers {
namespace {

using test::copies;
using test::expect_close;
using test::expect_equal;
using test::expect_throws_with;
using test::LogCapture;
using test::quiet_config;
using test::TemporaryFolder;

constexpr int64_t kTexts = 4;

/// A dataset of images with one gray level for each text. The label is the index of the text.
class GrayTexts : public Dataset {
 public:
  explicit GrayTexts(int64_t size) : size_(size) {}
  int64_t size() const override { return size_; }
  Batch get_batch(std::span<const int64_t> indices, uint64_t) const override {
    const Tensor index = at::tensor(std::vector<int64_t>(indices.begin(), indices.end()), at::kLong);
    Batch batch;
    batch.class_labels = index.remainder(kTexts);
    const Tensor gray = batch.class_labels.to(at::kFloat) * (2.0 / (kTexts - 1)) - 1;
    batch.images = gray.view({-1, 1, 1, 1}).expand({index.size(0), 1, 8, 8}).contiguous();
    return batch;
  }

 private:
  int64_t size_;
};

/// Returns random tensors in place of a text encoder's output, `[texts, tokens, channels]`.
Tensor text_embeddings() { return at::randn({kTexts, 3, 6}, make_generator(4)); }

UNet2DConditionModel text_unet() {
  manual_seed(2);
  return UNet2DConditionModel({.sample_size = 8,
                               .in_channels = 1,
                               .out_channels = 1,
                               .down_block_types = {"CrossAttnDownBlock2D", "DownBlock2D"},
                               .up_block_types = {"UpBlock2D", "CrossAttnUpBlock2D"},
                               .block_out_channels = {8, 16},
                               .layers_per_block = 1,
                               .norm_num_groups = 4,
                               .cross_attention_dim = 6,
                               .attention_head_dim = 2});
}

DiffusionTaskOptions with_texts(const Tensor& embeddings = text_embeddings()) {
  return {.conditioning = [embeddings](const Batch& batch) {
    return Conditioning{.encoder_hidden_states = embeddings.index({batch.class_labels})};
  }};
}

TrainingConfig text_config(const std::string& folder, int64_t steps) {
  TrainingConfig config = quiet_config(folder);
  config.train_batch_size = 8;
  config.num_epochs = 1000;
  config.max_train_steps = steps;
  return config;
}

TEST(TextConditioning, TrainsInAShortProgramAndLeavesAFolderThatOpens) {
  const LogCapture log;
  const TemporaryFolder folder;
  UNet2DConditionModel unet = text_unet();
  const std::vector<Tensor> before = copies(unet->parameters());
  const DDPMScheduler scheduler;
  // This is a complete training program.
  const Tensor embeddings = text_embeddings();
  Trainer trainer(unet, scheduler, text_config(folder.path(), 60), {.conditioning = [=](const Batch& batch) {
                    return Conditioning{.encoder_hidden_states = embeddings.index({batch.class_labels})};
                  }});
  std::vector<double> losses;
  trainer.on_log([&](const TrainingProgress& progress) { losses.push_back(progress.loss); });
  trainer.train(GrayTexts(32));

  const auto mean_of = [&](std::size_t first) {
    double sum = 0;
    for (std::size_t i = first; i < first + 10; ++i) sum += losses[i] / 10;
    return sum;
  };
  ASSERT_EQ(losses.size(), 60U);
  EXPECT_LT(mean_of(50), 0.7 * mean_of(0));
  int64_t keys = 0;
  for (std::size_t i = 0; i < before.size(); ++i) {
    const std::string name = unet->named_parameters()[i].key();
    if (name.find("attn2.to_k") == std::string::npos) continue;
    ++keys;
    EXPECT_GT((unet->parameters()[i] - before[i]).abs().max().item<double>(), 1e-3) << name;
  }
  EXPECT_GE(keys, 4);  // down, middle, up
  // The labels select the text. They are not class labels of the model.
  EXPECT_FALSE(log.contains("the dataset has class labels"));

  const auto loaded = UNet2DConditionModel::from_pretrained(folder.path(), {.subfolder = "unet"});
  const Tensor x = at::randn({2, 1, 8, 8}, make_generator(3));
  const Tensor t = at::tensor({10, 900});
  const Tensor text = embeddings.slice(0, 0, 2);
  const at::NoGradGuard no_grad;
  expect_equal(loaded->forward(x, t, text).sample, unet->forward(x, t, text).sample);
  EXPECT_EQ(Scheduler::from_pretrained(folder.path(), {.subfolder = "scheduler"})->class_name(),
            "DDPMScheduler");
  // Python has no pipeline for this model without its other components.
  EXPECT_FALSE(file_exists(folder / "model_index.json"));
}

/// The conditioning of `with_texts` as a task class.
class TextTask : public DiffusionTask {
 public:
  using DiffusionTask::DiffusionTask;

 protected:
  Conditioning conditioning(const Batch& batch) override {
    return {.encoder_hidden_states = text_embeddings().index({batch.class_labels})};
  }
};

TEST(TextConditioning, AnOverriddenMethodTrainsAsTheFunctionOfTheOptions) {
  const LogCapture log;
  const auto train = [](bool is_overridden) {
    const TemporaryFolder folder;
    UNet2DConditionModel unet = text_unet();
    const TrainingConfig config = text_config(folder.path(), 3);
    if (is_overridden) {
      Trainer(
          std::make_shared<TextTask>(unet, DDPMScheduler(), DiffusionTaskOptions{.class_conditional = false}),
          config)
          .train(GrayTexts(16));
    } else {
      Trainer(unet, DDPMScheduler(), config, with_texts()).train(GrayTexts(16));
    }
    return copies(unet->parameters());
  };
  const std::vector<Tensor> option = train(false);
  const std::vector<Tensor> method = train(true);
  for (std::size_t i = 0; i < option.size(); ++i) expect_equal(method[i], option[i]);
}

TEST(TextConditioning, ResumesBitForBit) {
  const auto train_until = [](const std::string& folder, int64_t stop, bool resumes) {
    TrainingConfig config = text_config(folder, 5);
    config.checkpointing_steps = 5;
    config.use_ema = true;
    if (resumes) config.resume_from_checkpoint = "latest";
    UNet2DConditionModel unet = text_unet();
    if (resumes)
      for (Tensor& parameter : unet->parameters()) parameter.detach().zero_();
    Trainer trainer(unet, DDPMScheduler(), config, with_texts());
    trainer.on_step([&](int64_t step) {
      if (step == stop) trainer.request_stop();
    });
    return trainer.train(GrayTexts(24)).is_complete;
  };
  const TemporaryFolder whole;
  EXPECT_TRUE(train_until(whole.path(), -1, false));
  const TemporaryFolder parts;
  EXPECT_FALSE(train_until(parts.path(), 2, false));
  EXPECT_TRUE(train_until(parts.path(), -1, true));
  for (const char* name : {"unet/diffusion_pytorch_model.safetensors",
                           "unet_ema/diffusion_pytorch_model.safetensors", "optimizer.safetensors"})
    EXPECT_EQ(read_text_file(join_path(parts / "checkpoint-5", name)),
              read_text_file(join_path(whole / "checkpoint-5", name)))
        << name;
}

TEST(TextConditioning, EveryPartOfASplitBatchGetsItsTexts) {
  const auto train = [](int64_t parts) {
    const TemporaryFolder folder;
    UNet2DConditionModel unet = text_unet();
    TrainingConfig config = text_config(folder.path(), 3);
    config.cpu_data_parallel = parts;
    Trainer(unet, DDPMScheduler(), config, with_texts()).train(GrayTexts(16));
    return copies(unet->parameters());
  };
  const std::vector<Tensor> whole = train(1);
  const std::vector<Tensor> cut = train(3);
  // Adam divides gradients by their magnitude, so a rounding error of a gradient near zero may change a
  // weight by a full step.
  for (std::size_t i = 0; i < whole.size(); ++i) expect_close(cut[i], whole[i], 1e-3, 1e-3);
}

TEST(TextConditioning, InputsThatTheModelDoesNotTakeAreNamed) {
  const LogCapture log;
  const TemporaryFolder folder;
  expect_throws_with<ConfigError>(
      [&] {
        Trainer(test::TinyNet(), DDPMScheduler(), text_config(folder.path(), 1), with_texts())
            .train(GrayTexts(8));
      },
      "the conditioning has encoder_hidden_states float32 [8, 3, 6]");
}

}  // namespace
}  // namespace diffusers

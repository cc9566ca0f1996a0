// Errors and warnings about the batches of a training.

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/edm.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"
#include "training/quick_training.h"

namespace diffusers {
namespace {

using test::expect_equal;
using test::expect_throws_with;
using test::LabelledNet;
using test::quiet_config;
using test::seeded_net;
using test::TinyImages;

/// Collects the warnings that are logged during its lifetime.
class Warnings {
 public:
  Warnings()
      : previous_(set_log_sink([this](LogLevel level, std::string_view message) {
          if (level == LogLevel::kWarning) texts_.emplace_back(message);
        })) {}
  Warnings(const Warnings&) = delete;
  Warnings& operator=(const Warnings&) = delete;
  ~Warnings() { set_log_sink(previous_); }
  std::vector<std::string> with(std::string_view part) const {
    std::vector<std::string> found;
    for (const std::string& text : texts_)
      if (text.find(part) != std::string::npos) found.push_back(text);
    return found;
  }

 private:
  std::vector<std::string> texts_;
  LogSink previous_;
};

/// TinyImages with given images and labels.
class AnyImages : public Dataset {
 public:
  AnyImages(Tensor images, Tensor labels, int64_t classes = 0)
      : images_(std::move(images)), labels_(std::move(labels)), classes_(classes) {}
  int64_t size() const override { return images_.size(0); }
  int64_t class_count() const override { return classes_; }
  Batch get_batch(std::span<const int64_t> indices, uint64_t) const override {
    const Tensor index = at::tensor(std::vector<int64_t>(indices.begin(), indices.end()), at::kLong);
    Batch batch;
    batch.images = images_.index_select(0, index);
    if (labels_.defined()) batch.class_labels = labels_.index_select(0, index);
    return batch;
  }

 private:
  Tensor images_, labels_;
  int64_t classes_;
};

Tensor signed_images(int64_t count) { return TinyImages(count).images(); }

template <class Model>
TrainingResult train_on(const Dataset& data, Model model, const DiffusionTaskOptions& options = {},
                        const Dataset* validation = nullptr) {
  const test::TemporaryFolder folder;
  TrainingConfig config = quiet_config(folder.path());
  config.num_epochs = 2;
  config.logging_steps = 2;
  config.validation_steps = validation != nullptr ? 1 : 0;
  Trainer trainer(model, DDPMScheduler(), config, options);
  return validation != nullptr ? trainer.train(data, *validation) : trainer.train(data);
}

TEST(BatchInput, ImagesThatAreNotFloatingAreRefusedWithAdvice) {
  const Tensor bytes = ((signed_images(8) + 1) * 127.5).to(at::kByte);
  expect_throws_with<TensorError>([&] { train_on(AnyImages(bytes, {}), seeded_net()); },
                                  "images uint8 [4, 1, 6, 6] on cpu, expected floating point in [-1, 1]");
  expect_throws_with<TensorError>([&] { train_on(AnyImages(bytes, {}), seeded_net()); },
                                  "images.to(torch::kFloat) / 127.5 - 1");
  expect_throws_with<TensorError>([&] { train_on(AnyImages(bytes.to(at::kLong), {}), seeded_net()); },
                                  "images int64 [4, 1, 6, 6]");
  const AnyImages held_out(bytes, {});
  expect_throws_with<TensorError>([&] { train_on(TinyImages(8), seeded_net(), {}, &held_out); },
                                  "images uint8 [");
  // Other floating types are converted.
  EXPECT_TRUE(train_on(AnyImages(signed_images(8).to(at::kHalf), {}), seeded_net()).is_complete);
  EXPECT_TRUE(train_on(AnyImages(signed_images(8).to(at::kDouble), {}), seeded_net()).is_complete);
}

TEST(BatchInput, ImagesThatAreNotScaledAreWarnedOfOnce) {
  const auto warnings_for = [](const Tensor& images) {
    const Warnings warnings;
    train_on(AnyImages(images, {}), seeded_net());
    return warnings.with("the dataset gives images from");
  };
  const Tensor images = signed_images(16);
  EXPECT_TRUE(warnings_for(images).empty());
  EXPECT_TRUE(warnings_for(3 * images).empty());  // latents
  EXPECT_TRUE(warnings_for(at::zeros({16, 1, 6, 6})).empty());
  const auto bytes = warnings_for((images + 1) * 127.5);
  ASSERT_EQ(bytes.size(), 1U);
  EXPECT_NE(bytes[0].find("expected [-1, 1]; images in [0, 255] are converted with images / 127.5 - 1"),
            std::string::npos)
      << bytes[0];
  const auto unsigned_range = warnings_for((images + 1) / 2);
  ASSERT_EQ(unsigned_range.size(), 1U);
  EXPECT_NE(unsigned_range[0].find("images * 2 - 1"), std::string::npos) << unsigned_range[0];
  const auto latents = warnings_for(20 * images);
  ASSERT_EQ(latents.size(), 1U);
  EXPECT_NE(latents[0].find("scaling_factor"), std::string::npos) << latents[0];
}

TEST(BatchInput, LaterImagesOfTheFirstEpochAreLookedAtWhereItIsLogged) {
  // The pixels of the first batch are black.
  class DarkStart : public AnyImages {
   public:
    using AnyImages::AnyImages;
    Batch get_batch(std::span<const int64_t> indices, uint64_t seed) const override {
      Batch batch = AnyImages::get_batch(indices, seed);
      if (reads_++ == 0) batch.images.zero_();
      return batch;
    }

   private:
    mutable int reads_ = 0;
  };
  const Warnings warnings;
  train_on(DarkStart((signed_images(16) + 1) * 127.5, {}), seeded_net());
  EXPECT_EQ(warnings.with("the dataset gives images from").size(), 1U);
}

/// Images of two sizes: 5 of 6 x 6 pixels, then 6 of 8 x 8.
class ImagesOfTwoSizes : public MapDataset {
 public:
  int64_t size() const override { return 11; }
  Batch get(int64_t index) const override {
    const int64_t side = index < 5 ? 6 : 8;
    return {.images =
                at::linspace(-1, 1, side * side).mul(static_cast<double>(index)).sin().view({1, side, side})};
  }
  std::vector<int64_t> buckets() const override { return {6, 6, 6, 6, 6, 8, 8, 8, 8, 8, 8}; }
};

TEST(BatchInput, ImagesOfSeveralSizesAreTrainedByBucket) {
  const test::TemporaryFolder folder;
  TrainingConfig config = quiet_config(folder / "whole");
  config.num_epochs = 2;
  test::TinyNet whole = seeded_net();
  Trainer trainer(whole, DDPMScheduler(), config);
  // Batches of 4: 2 of each size in an epoch.
  EXPECT_EQ(trainer.train(ImagesOfTwoSizes()).global_step, 8);

  config.output_dir = folder / "parts";
  config.checkpointing_steps = 3;
  test::TinyNet first = seeded_net();
  Trainer stopped(first, DDPMScheduler(), config);
  stopped.on_step([&](int64_t step) {
    if (step == 3) stopped.request_stop();
  });
  EXPECT_EQ(stopped.train(ImagesOfTwoSizes()).global_step, 3);
  config.resume_from_checkpoint = "latest";
  test::TinyNet second = seeded_net();
  Trainer resumed(second, DDPMScheduler(), config);
  EXPECT_EQ(resumed.train(ImagesOfTwoSizes()).global_step, 8);
  const auto expected = whole->named_parameters();
  for (const auto& parameter : second->named_parameters())
    expect_equal(parameter.value(), expected[parameter.key()], parameter.key());
}

TEST(BatchInput, EveryFieldReachesTheTaskAndTheValidation) {
  class WithCaptions : public TinyImages {
   public:
    using TinyImages::TinyImages;
    Batch get_batch(std::span<const int64_t> indices, uint64_t seed) const override {
      Batch batch = TinyImages::get_batch(indices, seed);
      for (const int64_t index : indices) batch.captions.push_back(std::to_string(index));
      return batch;
    }
  };
  class ReadingTask : public DiffusionTask {
   public:
    using DiffusionTask::DiffusionTask;
    int64_t samples = 0;

   protected:
    Tensor encode(const Batch& batch) override {
      EXPECT_EQ(static_cast<int64_t>(batch.captions.size()), batch.size());
      for (int64_t i = 0; i < batch.size(); ++i, ++samples)
        EXPECT_EQ(batch.captions.at(static_cast<std::size_t>(i)),
                  std::to_string(batch.indices[i].item<int64_t>()));
      return DiffusionTask::encode(batch);
    }
  };
  const test::TemporaryFolder folder;
  TrainingConfig config = quiet_config(folder.path());
  config.validation_steps = 4;
  const auto task = std::make_shared<ReadingTask>(make_trainable(seeded_net()), DDPMScheduler());
  Trainer trainer(task, config);
  trainer.train(WithCaptions(16), WithCaptions(6));
  EXPECT_EQ(task->samples, 16 + 6);
}

TEST(BatchInput, LabelsAreCheckedBeforeTheyReachTheModel) {
  LabelledNet model;
  model->facts.num_class_embeds = 11;
  const Tensor images = signed_images(8);
  const Tensor labels = at::arange(8, at::kLong);
  EXPECT_TRUE(train_on(AnyImages(images, labels), model).is_complete);
  expect_throws_with<TensorError>([&] { train_on(AnyImages(images, labels.to(at::kByte)), model); },
                                  "class_labels are uint8 [4] on cpu, expected int64; convert them with "
                                  "labels.to(torch::kLong)");
  expect_throws_with<TensorError>([&] { train_on(AnyImages(images, labels.to(at::kFloat)), model); },
                                  "class_labels are float32 [4] on cpu, expected int64");
  expect_throws_with<TensorError>([&] { train_on(AnyImages(images, labels + 4), model); },
                                  "the dataset has the label 11, expected 0 to 10 (num_class_embeds");
  expect_throws_with<TensorError>([&] { train_on(AnyImages(images, labels - 1), model); },
                                  "the dataset has the label -1, expected 0 to 10");
  const AnyImages held_out(images, labels + 5);
  expect_throws_with<TensorError>([&] { train_on(AnyImages(images, labels), model, {}, &held_out); },
                                  "the dataset has the label ");
  expect_throws_with<ConfigError>([&] { train_on(AnyImages(images, labels, 12), model); },
                                  "the dataset has 12 classes, but num_class_embeds of the model is 11");
  // Labels that the model does not use are not checked.
  EXPECT_TRUE(train_on(AnyImages(images, labels + 40, 48), model, {.class_conditional = false}).is_complete);
}

TEST(BatchInput, TheLabelForNoClassIsNoClassOfTheData) {
  const Tensor images = signed_images(20);
  const Tensor labels = at::arange(20, at::kLong).remainder(10);
  LabelledNet model;
  model->facts.num_class_embeds = 10;
  // Without class dropout, ten classes need ten embedding rows.
  EXPECT_TRUE(train_on(AnyImages(images, labels, 10), model).is_complete);
  const DiffusionTaskOptions guided{.class_dropout_prob = 0.1};
  // The number of classes is known from the dataset before the first batch, or from a label.
  expect_throws_with<ConfigError>(
      [&] { train_on(AnyImages(images, labels, 10), model, guided); },
      "class_dropout_prob is 0.1, so the label 9 (num_class_embeds - 1) stands for");
  for (const int64_t classes : {0, 10})
    expect_throws_with<ConfigError>([&] { train_on(AnyImages(images, labels, classes), model, guided); },
                                    "set num_class_embeds to 11");
  expect_throws_with<ConfigError>(
      [&] {
        const test::TemporaryFolder folder;
        TrainingConfig config = quiet_config(folder.path());
        Trainer(std::make_shared<EDMTask>(model, EDMConfig{.class_dropout_prob = 0.1}), config)
            .train(AnyImages(images, labels));
      },
      "set num_class_embeds to 11");
  model->facts.num_class_embeds = 11;
  EXPECT_TRUE(train_on(AnyImages(images, labels, 10), model, guided).is_complete);
}

/// A model whose forward takes labels as a tensor.
struct TensorLabelNetImpl : torch::nn::Module {
  TensorLabelNetImpl() {
    conv = register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 1, 3).padding(1)));
    table = register_module("table", torch::nn::Embedding(11, 1));
  }
  Tensor forward(const Tensor& sample, const Tensor&, const Tensor& labels = {}) {
    last_labels = labels;
    const Tensor out = conv(sample);
    return labels.defined() ? out + table(labels).view({-1, 1, 1, 1}) : out;
  }
  torch::nn::Conv2d conv{nullptr};
  torch::nn::Embedding table{nullptr};
  Tensor last_labels;
};
TORCH_MODULE(TensorLabelNet);

/// A model whose forward takes labels as an optional tensor, with its own denoiser_info().
struct OptionalLabelNetImpl : torch::nn::Module {
  OptionalLabelNetImpl() {
    conv = register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 1, 3).padding(1)));
  }
  DenoiserInfo denoiser_info() const { return facts; }
  Tensor forward(const Tensor& sample, const Tensor&, const std::optional<Tensor>& labels = std::nullopt) {
    was_given_labels = labels.has_value();
    return conv(sample);
  }
  torch::nn::Conv2d conv{nullptr};
  bool was_given_labels = false;
  DenoiserInfo facts{.takes_class_labels = true};
};
TORCH_MODULE(OptionalLabelNet);

TEST(BatchInput, LabelsReachAForwardThatTakesThemAsATensor) {
  const TinyImages data(8, /*has_labels=*/true);
  const Warnings warnings;
  TensorLabelNet model;
  EXPECT_TRUE(make_trainable(model).info.takes_class_labels);
  const Tensor before = model->table->weight.detach().clone();
  train_on(data, model);
  ASSERT_TRUE(model->last_labels.defined());
  EXPECT_EQ(model->last_labels.scalar_type(), at::kLong);
  EXPECT_EQ(model->last_labels.size(0), 4);
  EXPECT_FALSE(at::equal(model->table->weight, before));
  train_on(data, model, {.class_conditional = false});
  EXPECT_FALSE(model->last_labels.defined());
  train_on(TinyImages(8), model);
  EXPECT_FALSE(model->last_labels.defined());

  OptionalLabelNet other;
  EXPECT_TRUE(make_trainable(other).info.takes_class_labels);
  train_on(data, other);
  EXPECT_TRUE(other->was_given_labels);
  other->facts.takes_class_labels = false;
  EXPECT_FALSE(make_trainable(other).info.takes_class_labels);
  EXPECT_TRUE(warnings.with("class labels").empty());
}

TEST(BatchInput, LabelsThatNoModelTakesAreWarnedOfOnce) {
  const TinyImages data(8, /*has_labels=*/true);
  const Warnings warnings;
  train_on(data, seeded_net(), {.class_conditional = false});
  train_on(TinyImages(8), seeded_net());
  EXPECT_TRUE(warnings.with("class labels").empty());
  train_on(data, seeded_net());
  ASSERT_EQ(warnings.with("the dataset has class labels, but the model takes none").size(), 1U);
  LabelledNet without;
  without->facts.takes_class_labels = false;
  train_on(data, without);
  EXPECT_EQ(warnings.with("the dataset has class labels, but the model takes none").size(), 2U);
  expect_throws_with<ConfigError>([&] { train_on(data, seeded_net(), {.class_conditional = true}); },
                                  "class_conditional is true");
}

}  // namespace
}  // namespace diffusers

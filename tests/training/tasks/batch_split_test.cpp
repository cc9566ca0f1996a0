#include <atomic>
#include <cstdint>
#include <vector>

#include <diffusers/models/unet_2d.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/batch_split.h>
#include <diffusers/training/trainer.h>

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/utils.h>

#include "support/golden.h"
#include "training/tiny_model.h"

namespace diffusers {
namespace {

UNet2DModel small_unet(double dropout = 0.0) {
  torch::manual_seed(3);
  return UNet2DModel({.sample_size = 8,
                      .in_channels = 1,
                      .out_channels = 1,
                      .down_block_types = {"DownBlock2D", "AttnDownBlock2D"},
                      .up_block_types = {"AttnUpBlock2D", "UpBlock2D"},
                      .block_out_channels = {8, 16},
                      .layers_per_block = 1,
                      .dropout = dropout,
                      .norm_num_groups = 4,
                      .num_class_embeds = 10});
}

struct Result {
  Tensor prediction;
  std::vector<Tensor> gradients;
};

Result run(int64_t parts, int64_t batch_size, at::ScalarType dtype = at::kDouble, bool autocast = false) {
  UNet2DModel unet = small_unet();
  unet->to(dtype);
  const auto model = make_trainable(unet);
  const Tensor sample = test::TinyImages(batch_size, false, 8).images().to(dtype);
  const Tensor timesteps = at::arange(batch_size) * 100;
  const Conditioning conditioning{.class_labels = at::arange(batch_size).remainder(10)};
  Result result;
  at::autocast::set_autocast_enabled(at::kCPU, autocast);
  result.prediction = predict_in_parts(model, sample, timesteps, conditioning, parts);
  at::autocast::set_autocast_enabled(at::kCPU, false);
  (result.prediction.to(at::kDouble) * sample.sin()).sum().backward();
  for (const Tensor& parameter : unet->parameters()) result.gradients.push_back(parameter.grad());
  return result;
}

// In float64 the effect of another order of summation is far smaller than any error.
TEST(PredictInParts, GivesThePredictionAndTheGradientsOfTheWholeBatch) {
  const Result whole = run(1, 7);
  for (const int64_t parts : {2, 3, 7, 20}) {
    const Result cut = run(parts, 7);
    test::expect_close(cut.prediction, whole.prediction, 1e-12, 1e-12);
    ASSERT_EQ(cut.gradients.size(), whole.gradients.size());
    for (std::size_t i = 0; i < cut.gradients.size(); ++i)
      test::expect_close(cut.gradients[i], whole.gradients[i], 1e-10, 1e-10);
  }
}

TEST(PredictInParts, RepeatsBitForBit) {
  const Result first = run(3, 8, at::kFloat);
  for (int repetition = 0; repetition < 5; ++repetition) {
    const Result again = run(3, 8, at::kFloat);
    test::expect_equal(again.prediction, first.prediction);
    for (std::size_t i = 0; i < first.gradients.size(); ++i)
      test::expect_equal(again.gradients[i], first.gradients[i]);
  }
}

TEST(PredictInParts, GivesEachPartItsRowsOfTheConditioning) {
  const Conditioning given{.class_labels = at::arange(5),
                           .encoder_hidden_states = at::arange(5).view({5, 1, 1}),
                           .added_cond_kwargs = {.text_embeds = at::arange(5).view({5, 1})},
                           .down_block_additional_residuals = {at::arange(5).view({5, 1, 1, 1})}};
  const auto model = TrainableDenoiser(
      make_saved_module(test::TinyNet()),
      [](const Tensor& sample, const Tensor& timesteps, const Conditioning& rows) {
        EXPECT_TRUE(at::equal(rows.class_labels, timesteps));
        EXPECT_TRUE(at::equal(rows.encoder_hidden_states.flatten(), timesteps));
        EXPECT_TRUE(at::equal(rows.added_cond_kwargs.text_embeds.flatten(), timesteps));
        EXPECT_TRUE(at::equal(rows.down_block_additional_residuals[0].flatten(), timesteps));
        return sample;
      });
  const Tensor sample = at::randn({5, 1, 2, 2});
  test::expect_equal(predict_in_parts(model, sample, at::arange(5), given, 2), sample);
}

// As of a text encoder that is trained with the UNet.
TEST(PredictInParts, AGradientReachesTheInputs) {
  const Tensor values = at::arange(20, at::kDouble).view({5, 1, 2, 2}).sin();
  for (const bool is_frozen : {false, true}) {
    test::TinyNet net;
    net->to(at::kDouble);
    for (Tensor& parameter : net->parameters()) parameter.requires_grad_(!is_frozen);
    std::atomic<int> calls = 0;
    const auto model = TrainableDenoiser(
        make_saved_module(net),
        [net, &calls](const Tensor& sample, const Tensor& timesteps, const Conditioning& rows) mutable {
          ++calls;
          return net->forward(sample, timesteps) * rows.encoder_hidden_states +
                 rows.added_cond_kwargs.text_embeds.square();
        });
    const auto gradients = [&](int64_t parts) {
      const Tensor sample = values.clone().requires_grad_();
      const Tensor factor = at::linspace(1, 2, 5, at::kDouble).requires_grad_();
      const Tensor pooled = at::linspace(-1, 1, 5, at::kDouble).view({5, 1, 1, 1}).clone().requires_grad_();
      const Tensor unused = at::ones({5}, at::kDouble).requires_grad_();
      for (Tensor& parameter : net->parameters()) parameter.mutable_grad() = Tensor();
      calls = 0;
      const Conditioning given{.encoder_hidden_states = factor.square().view({5, 1, 1, 1}),
                               .added_cond_kwargs = {.text_embeds = pooled},
                               .timestep_cond = unused};
      (predict_in_parts(model, sample, at::arange(5), given, parts) * values).sum().backward();
      EXPECT_EQ(calls, parts);
      EXPECT_FALSE(unused.grad().defined());
      std::vector<Tensor> found{sample.grad(), factor.grad(), pooled.grad()};
      if (!is_frozen)
        for (const Tensor& parameter : net->parameters()) found.push_back(parameter.grad());
      return found;
    };
    const std::vector<Tensor> whole = gradients(1);
    for (const int64_t parts : {2, 3, 5}) {
      const std::vector<Tensor> cut = gradients(parts);
      ASSERT_EQ(cut.size(), whole.size());
      for (std::size_t i = 0; i < whole.size(); ++i) test::expect_close(cut[i], whole[i], 1e-12, 1e-12);
    }
  }
}

TEST(PredictInParts, KeepsABatchWhoseConditioningHasOtherRows) {
  test::TinyNet net;
  const auto model = TrainableDenoiser(
      make_saved_module(net),
      [net](const Tensor& sample, const Tensor& timesteps, const Conditioning& rows) mutable {
        EXPECT_EQ(sample.size(0), 4);
        return net->forward(sample, timesteps) * rows.encoder_hidden_states;
      });
  predict_in_parts(model, at::randn({4, 1, 2, 2}), at::arange(4),
                   {.encoder_hidden_states = at::ones({1, 1, 1, 1})}, 2);
}

TEST(PredictInParts, KeepsAutocast) {
  const Result whole = run(1, 4, at::kFloat, /*autocast=*/true);
  const Result cut = run(2, 4, at::kFloat, /*autocast=*/true);
  EXPECT_EQ(cut.prediction.scalar_type(), at::kBFloat16);
  EXPECT_EQ(cut.prediction.scalar_type(), whole.prediction.scalar_type());
}

TEST(PredictInParts, AModelsErrorReachesTheCaller) {
  UNet2DModel unet = small_unet();
  const auto model = make_trainable(unet);
  EXPECT_THROW(predict_in_parts(model, at::zeros({4, 2, 8, 8}), at::zeros({4}, at::kLong),
                                {.class_labels = at::zeros({4}, at::kLong)}, 2),
               TensorError);
  EXPECT_THROW(predict_in_parts(model, at::zeros({4, 1, 8, 8}), at::zeros({4}, at::kLong), {}, 0),
               ConfigError);
}

TrainingConfig parallel_config(const std::string& folder, int64_t parts) {
  return {.output_dir = folder,
          .seed = 1,
          .train_batch_size = 5,
          .num_epochs = 2,
          .lr_scheduler = "constant",
          .checkpointing_steps = 0,
          .progress_bar = false,
          .cpu_data_parallel = parts};
}

TEST(PredictInParts, TheTrainerTrainsTheSameModel) {
  const auto train = [](int64_t parts) {
    const test::TemporaryFolder folder;
    UNet2DModel unet = small_unet();
    Trainer(unet, DDPMScheduler(), parallel_config(folder.path(), parts))
        .train(test::TinyImages(12, true, 8));
    std::vector<Tensor> weights;
    for (const Tensor& parameter : unet->parameters()) weights.push_back(parameter.detach().clone());
    return weights;
  };
  const std::vector<Tensor> whole = train(1);
  const std::vector<Tensor> cut = train(2);
  // Adam divides gradients by their magnitude, so a rounding error of a gradient near zero may change a
  // weight by a full step.
  for (std::size_t i = 0; i < whole.size(); ++i) test::expect_close(cut[i], whole[i], 1e-3, 1e-4);
  const std::vector<Tensor> again = train(2);
  for (std::size_t i = 0; i < cut.size(); ++i) test::expect_equal(again[i], cut[i]);
}

TEST(PredictInParts, DropoutIsRefused) {
  const test::TemporaryFolder folder;
  const auto expect_refusal = [&](auto model) {
    try {
      Trainer trainer(model, DDPMScheduler(), parallel_config(folder.path(), 2));
      FAIL() << "no error";
    } catch (const ConfigError& error) {
      EXPECT_NE(std::string(error.what()).find("cpu_data_parallel is 2"), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("dropout 0.25"), std::string::npos) << error.what();
    }
  };
  expect_refusal(small_unet(0.25));
  expect_refusal(test::TinyNet(0.25));
}

/// A model whose normalisation depends on all rows of a batch.
struct BatchNormNetImpl : torch::nn::Module {
  BatchNormNetImpl() { norm = register_module("norm", torch::nn::BatchNorm2d(1)); }
  Tensor forward(const Tensor& sample, const Tensor&) { return norm->forward(sample); }
  torch::nn::BatchNorm2d norm{nullptr};
};
TORCH_MODULE(BatchNormNet);

TEST(PredictInParts, BatchNormalisationIsRefused) {
  const test::TemporaryFolder folder;
  test::expect_throws_with<ConfigError>(
      [&] { Trainer(BatchNormNet(), DDPMScheduler(), parallel_config(folder.path(), 2)); },
      "cpu_data_parallel is 2, but the model has batch normalisation, whose statistics are those of whole "
      "batches");
}

}  // namespace
}  // namespace diffusers

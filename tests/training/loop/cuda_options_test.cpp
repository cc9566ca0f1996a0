// Trainings on a CUDA device with each of the CudaOptions equal the training without them.

#include <memory>
#include <string>
#include <vector>

#include <diffusers/core/cuda_options.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/conv.h>

#include "support/golden.h"
#include "support/on_cuda.h"
#include "training/loop/captured_step.h"
#include "training/loop/channels_last.h"
#include "training/loop/device_copies.h"
#include "training/quick_training.h"

namespace diffusers {
namespace {

using test::copies;
using test::CudaOptionsScope;
using test::exact_options;
using test::expect_close;
using test::expect_equal;
using test::LogCapture;
using test::quiet_config;
using test::TemporaryFolder;
using test::TinyImages;

struct DeviceRun {
  std::vector<Tensor> weights;  // with the averages
  std::vector<std::string> messages;
};

/// Trains 8 steps on a device with noise from the device's generator.
DeviceRun train_on_device(const CudaOptions& options, MixedPrecision precision,
                          bool gradient_accumulation = false) {
  const CudaOptionsScope scope(options);
  const LogCapture log;
  const TemporaryFolder folder;
  manual_seed(5);
  UNet2DModel model({.sample_size = 8,
                     .in_channels = 1,
                     .out_channels = 1,
                     .down_block_types = {"DownBlock2D", "AttnDownBlock2D"},
                     .up_block_types = {"AttnUpBlock2D", "UpBlock2D"},
                     .block_out_channels = {16, 32},
                     .layers_per_block = 1,
                     .norm_num_groups = 4});
  model->to(at::kCUDA);
  TrainingConfig config = quiet_config(folder.path());
  config.max_train_steps = 8;
  config.learning_rate = 1e-3;
  config.lr_scheduler = "cosine";
  config.lr_warmup_steps = 2;
  config.use_ema = true;
  config.tensorboard = false;
  config.report = false;
  config.mixed_precision = precision;
  if (gradient_accumulation) config.gradient_accumulation_steps = 2;
  Trainer trainer(model, DDPMScheduler(), config);
  trainer.train(TinyImages(20, false, 8));
  DeviceRun run{copies(model->parameters()), log.messages()};
  for (const Tensor& average : trainer.ema()->shadow_params()) run.weights.push_back(average.clone());
  for (Tensor& weight : run.weights) weight = weight.cpu();
  return run;
}

void expect_same_training(const DeviceRun& actual, const DeviceRun& expected, double tolerance,
                          const std::string& what) {
  ASSERT_EQ(actual.weights.size(), expected.weights.size());
  for (std::size_t i = 0; i < expected.weights.size(); ++i)
    expect_close(actual.weights[i], expected.weights[i], tolerance, tolerance, what);
}

TEST(OnCuda, EachOptionTrainsAsWithoutIt) {
  DIFFUSERS_SKIP_WITHOUT_CUDA();
  for (const MixedPrecision precision : {MixedPrecision::kNo, MixedPrecision::kBf16, MixedPrecision::kFp16}) {
    // Adam divides by the root of the second moment: rounding errors of small gradients become those of
    // steps.
    const double tolerance = precision == MixedPrecision::kNo ? 2e-4 : 4e-3;
    const DeviceRun expected = train_on_device(exact_options(false), precision);
    for (const char* const name : {"kernels", "channels_last", "async_copies", "graphs",
                                   "kernels,channels_last,async_copies,graphs,cudnn_benchmark"}) {
      CudaOptions options = parse_cuda_options(name);
      options.allow_tf32_cudnn = false;
      const DeviceRun actual = train_on_device(options, precision);
      EXPECT_EQ(actual.messages, expected.messages) << name;
      expect_same_training(actual, expected, tolerance, name);
    }
  }
}

TEST(OnCuda, AStepThatCannotBeCapturedTrainsWithAWarning) {
  DIFFUSERS_SKIP_WITHOUT_CUDA();
  CudaOptions options = exact_options(false);
  const DeviceRun expected = train_on_device(options, MixedPrecision::kNo, true);
  options.graphs = true;
  const DeviceRun actual = train_on_device(options, MixedPrecision::kNo, true);
  ASSERT_EQ(actual.messages.size(), expected.messages.size() + 1);
  EXPECT_NE(::testing::PrintToString(actual.messages).find("gradient_accumulation_steps is 2"),
            std::string::npos);
  expect_same_training(actual, expected, 0, "accumulation");
}

/// Counts replays, each of which runs the captured pass once more.
class RepeatingBackend : public GraphBackend {
 public:
  explicit RepeatingBackend(int* replays) : replays_(replays) {}
  std::string run_and_observe(const std::function<void()>& body) override {
    body();
    return {};
  }
  void capture(const std::function<void()>& body, const std::vector<Generator>& /*generators*/) override {
    body_ = body;
    body_();
  }
  void replay() override { ++*replays_; }

 private:
  int* replays_;
  std::function<void()> body_;
};

TEST(CapturedStep, LeavesTheGradientsOfTheGraphInTheParameters) {
  const Tensor weight = at::ones({3}).set_requires_grad(true);
  const Tensor unused = at::ones({2}).set_requires_grad(true);
  int replays = 0;
  int passes = 0;
  CapturedStep step({weight, unused}, make_generator(1), std::make_unique<RepeatingBackend>(&replays));
  const auto run = [&](int64_t rows) {
    weight.mutable_grad() = Tensor();
    Batch batch;
    batch.images = at::full({rows, 3}, 2.0);
    return step.run(batch, [&](const Batch& given) {
      ++passes;
      const Tensor loss = (given.images * weight).sum();
      loss.backward();
      return StepResult{loss.detach(), {{"twice", 2 * loss.detach()}}};
    });
  };
  run(4);
  run(4);
  EXPECT_EQ(replays, 0);
  for (int i = 0; i < 3; ++i) {
    const StepResult result = run(4);
    EXPECT_EQ(replays, i + 1);
    EXPECT_EQ(passes, 3);
    EXPECT_EQ(result.loss.item<double>(), 24);
    ASSERT_EQ(result.values.size(), 1U);
    EXPECT_EQ(result.values[0].name, "twice");
    EXPECT_EQ(result.values[0].value.item<double>(), 48);
    expect_equal(weight.grad(), at::full({3}, 8.0));
    EXPECT_FALSE(unused.grad().defined());
    // A batch of another size is not replayed, and the graph keeps its gradients.
    if (i == 0) {
      run(1);
      expect_equal(weight.grad(), at::full({3}, 2.0));
      passes = 3;
    }
  }
}

TEST(CapturedStep, NamesWhatCannotBeCaptured) {
  class OwnTask : public DiffusionTask {
   public:
    using DiffusionTask::DiffusionTask;
  };
  const auto model = [] { return make_trainable(test::seeded_net()); };
  const auto obstacle = [&](const DiffusionTaskOptions& options, const TrainingConfig& config,
                            const Batch& batch = {}, std::size_t updates = 1) {
    return capture_obstacle(DiffusionTask(model(), DDPMScheduler(), options), config, updates, batch);
  };
  Batch images;
  images.images = at::zeros({2, 1, 8, 8});
  images.indices = at::arange(2);
  EXPECT_EQ(obstacle({}, {}, images), "");
  const auto expect_names = [](const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  Batch captions = images;
  captions.captions = {"a", "b"};
  expect_names(obstacle({}, {}, captions), "captions");
  expect_names(obstacle({}, {.gradient_accumulation_steps = 2}), "gradient_accumulation_steps is 2");
  expect_names(obstacle({}, {.gradient_checkpointing = true}), "gradient_checkpointing");
  expect_names(obstacle({}, {.fused_backward_pass = true}), "fused_backward_pass");
  expect_names(obstacle({}, {}, images, 2), "2 updates");
  expect_names(obstacle({.timestep_sampling = TimestepSampling::kLossSecondMoment}, {}),
               "loss_second_moment");
  expect_names(obstacle({.pyramid_noise_iterations = 2}, {}), "pyramid_noise_iterations");
  expect_names(obstacle({.conditioning = [](const Batch&) { return Conditioning(); }}, {}), "conditioning");
  expect_names(capture_obstacle(OwnTask(model(), DDPMScheduler()), {}, 1, images), "DiffusionTask");
}

TEST(ChannelsLast, KeepsTheParametersAndTheirValues) {
  torch::nn::Conv2d layer(torch::nn::Conv2dOptions(4, 6, 3));
  const Tensor weight = layer->weight;
  const Tensor values = weight.detach().clone();
  to_channels_last(*layer);
  EXPECT_TRUE(layer->weight.is_same(weight));
  EXPECT_TRUE(weight.is_contiguous(at::MemoryFormat::ChannelsLast));
  EXPECT_TRUE(weight.requires_grad());
  expect_equal(weight, values);
}

TEST(DeviceCopies, HaveNoOptionsOnTheCpu) {
  CudaOptions options;
  options.async_copies = options.channels_last = true;
  Batch batch;
  batch.images = at::rand({2, 3, 4, 4}, at::kDouble);
  batch.class_labels = at::arange(2);
  const Batch moved = DeviceCopies(at::kCPU, options).to_device(batch, at::kFloat);
  EXPECT_TRUE(moved.images.is_contiguous());
  EXPECT_EQ(moved.images.scalar_type(), at::kFloat);
  EXPECT_EQ(moved.class_labels.scalar_type(), at::kLong);
}

TEST(OnCuda, BatchesOfTheCopyStreamAreReadyForTheComputation) {
  DIFFUSERS_SKIP_WITHOUT_CUDA();
  CudaOptions options;
  options.async_copies = options.channels_last = true;
  const DeviceCopies device_copies(at::Device(at::kCUDA, 0), options);
  for (int i = 0; i < 20; ++i) {
    Batch batch;
    batch.images = at::full({64, 3, 64, 64}, static_cast<double>(i), at::kFloat).pin_memory();
    const Batch moved = device_copies.to_device(batch, at::kFloat);
    EXPECT_TRUE(moved.images.is_contiguous(at::MemoryFormat::ChannelsLast));
    EXPECT_EQ(moved.images.min().item<double>(), i);
    EXPECT_EQ(moved.images.max().item<double>(), i);
  }
}

}  // namespace
}  // namespace diffusers

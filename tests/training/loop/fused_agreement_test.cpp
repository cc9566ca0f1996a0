// Trainings with the library's kernels and through LibTorch alone: they differ less than two seeds do.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <diffusers/models/unet_2d.h>
#include <diffusers/ops/conv2d.h>
#include <diffusers/ops/fused.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "ops/cpu/kernels.h"
#include "support/golden.h"
#include "training/quick_training.h"

namespace diffusers {
namespace {

constexpr int64_t kSide = 16;
constexpr int64_t kAgreementSteps = 200;

/// Bright strokes on a dark ground, like digits: rings and bars at different places.
class StrokeImages : public Dataset {
 public:
  StrokeImages() {
    at::manual_seed(9);
    const Tensor y = at::arange(kSide, at::kFloat).view({1, kSide, 1});
    const Tensor x = at::arange(kSide, at::kFloat).view({1, 1, kSide});
    const auto place = [] { return at::rand({64, 1, 1}) * 4 + 6; };
    const Tensor radius = ((y - place()).square() + (x - place()).square()).sqrt();
    const Tensor ring = (-(radius - 4).square()).exp();
    const Tensor bar = (-(x - place()).square()).exp() * at::sigmoid(2 * (5 - (y - place()).abs()));
    const Tensor is_ring = (at::arange(64) % 2 == 0).view({64, 1, 1});
    images_ = (at::where(is_ring, ring, bar) * 2 - 1).unsqueeze(1);
  }
  int64_t size() const override { return images_.size(0); }
  Batch get_batch(std::span<const int64_t> indices, uint64_t) const override {
    return {.images = images_.index_select(
                0, at::tensor(std::vector<int64_t>(indices.begin(), indices.end()), at::kLong))};
  }

 private:
  Tensor images_;
};

/// Switches all kernels of the library until the scope ends. Winograd serves every shape that it can.
class Kernels {
 public:
  explicit Kernels(bool enabled) : fused_(ops::fused()), winograd_(winograd()) {
    ops::set_fused(enabled);
    set_winograd(WinogradMode::kForced);
  }
  Kernels(const Kernels&) = delete;
  Kernels& operator=(const Kernels&) = delete;
  ~Kernels() {
    ops::set_fused(fused_);
    set_winograd(winograd_);
  }

 private:
  bool fused_;
  WinogradMode winograd_;
};

/// Returns the mean loss of the second half of a training.
double loss_of_training(int64_t seed, bool has_kernels) {
  const Kernels kernels(has_kernels);
  const test::TemporaryFolder folder;
  static const StrokeImages images;
  manual_seed(static_cast<uint64_t>(seed));
  const UNet2DModel unet({.sample_size = kSide,
                          .in_channels = 1,
                          .out_channels = 1,
                          .down_block_types = {"DownBlock2D", "AttnDownBlock2D"},
                          .up_block_types = {"AttnUpBlock2D", "UpBlock2D"},
                          .block_out_channels = {8, 16},
                          .layers_per_block = 1,
                          .attention_head_dim = 8,
                          .norm_num_groups = 4});
  TrainingConfig config = test::quiet_config(folder.path());
  config.seed = seed;
  config.train_batch_size = 8;
  config.max_train_steps = kAgreementSteps;
  config.learning_rate = 3e-3;
  config.tensorboard = config.report = false;
  Trainer trainer(unet, DDPMScheduler(), config, {.class_conditional = false});
  double sum = 0.0;
  trainer.on_log([&](const TrainingProgress& progress) {
    if (progress.step > kAgreementSteps / 2) sum += progress.loss;
  });
  trainer.train(images);
  return sum / (kAgreementSteps / 2);
}

TEST(FusedTraining, AgreesWithLibTorchWithinTheSpreadOfSeeds) {
  std::vector<double> fused;
  std::vector<double> reference;
  for (const int64_t seed : {1, 2, 3}) {
    fused.push_back(loss_of_training(seed, true));
    reference.push_back(loss_of_training(seed, false));
  }
  const auto [least, most] = std::minmax_element(reference.begin(), reference.end());
  const double spread = *most - *least;
  for (std::size_t i = 0; i < fused.size(); ++i) {
    RecordProperty("fused_" + std::to_string(i + 1), std::to_string(fused[i]));
    RecordProperty("reference_" + std::to_string(i + 1), std::to_string(reference[i]));
    EXPECT_LT(std::abs(fused[i] - reference[i]), spread / 2) << fused[i] << " and " << reference[i];
    EXPECT_LT(reference[i], 0.5);  // it has learned: the loss begins at 1
    if (cpu::kernels_available()) {
      EXPECT_NE(fused[i], reference[i]);
    }
  }
}

}  // namespace
}  // namespace diffusers

// The activations of a training step on the CPU stay contiguous, and its norms use this library's kernels.

#include <map>
#include <memory>
#include <string>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/ops/conv2d.h>

#include <ATen/record_function.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include "ops/cpu/kernels.h"
#include "ops/linear.h"

namespace diffusers::test {
namespace {

/// No number of channels is a multiple of the batch size, so the first dimension tells activations from
/// parameters.
constexpr int64_t kBatch = 5;

/// Operators of LibTorch that a step called.
struct StepCounts {
  int64_t convolutions = 0;          ///< forward and backward
  int64_t strided_convolutions = 0;  ///< those with an input or a gradient that is not contiguous
  int64_t group_norms = 0;
  std::map<std::string, int64_t> copies;  ///< copied activations, by shape
};

StepCounts* g_counts = nullptr;
std::vector<std::string> g_callers;  // operators that run, the outermost first

/// An expanded tensor is the bias of a linear layer.
bool is_activation(const Tensor& tensor) {
  return tensor.is_floating_point() && tensor.dim() >= 2 && tensor.size(0) > 0 &&
         tensor.size(0) % kBatch == 0 && (tensor.dim() > 2 || tensor.size(0) > kBatch) &&
         tensor.stride(0) != 0;
}

/// LibTorch's upsampling, padding and strided convolutions copy contiguous tensors too.
bool copies_by_itself(const std::string& caller) {
  for (const char* name :
       {"upsample_nearest2d", "ConvolutionBackward0", "constant_pad_nd", "ConstantPadNdBackward0"})
    if (caller.find(name) != std::string::npos) return true;
  return false;
}

std::unique_ptr<at::ObserverContext> begin_operator(const at::RecordFunction& function) {
  const std::string name = function.name();
  const auto inputs = function.inputs();
  if (name == "aten::convolution" || name == "aten::convolution_backward") {
    ++g_counts->convolutions;
    bool contiguous = inputs[0].toTensor().is_contiguous();
    if (name == "aten::convolution_backward") contiguous = contiguous && inputs[1].toTensor().is_contiguous();
    g_counts->strided_convolutions += static_cast<int64_t>(!contiguous);
  } else if (name == "aten::native_group_norm" || name == "aten::native_group_norm_backward") {
    ++g_counts->group_norms;
  } else if (name == "aten::copy_" && is_activation(inputs[1].toTensor())) {
    const std::string caller = g_callers.empty() ? "no operator" : g_callers.front();
    if (!copies_by_itself(caller))
      ++g_counts->copies[shape_string(inputs[1].toTensor().sizes()) + " in " + caller];
  }
  g_callers.push_back(name);
  return nullptr;
}

void end_operator(const at::RecordFunction& /*function*/, at::ObserverContext* /*context*/) {
  g_callers.pop_back();
}

/// Counts the operators of work().
template <class Work>
StepCounts count_operators(const Work& work) {
  StepCounts counts;
  g_counts = &counts;
  const auto handle = at::addGlobalCallback(at::RecordFunctionCallback(begin_operator, end_operator)
                                                .needsInputs(true)
                                                .scopes({at::RecordScope::FUNCTION}));
  work();
  at::removeCallback(handle);
  g_counts = nullptr;
  return counts;
}

/// Expects a step with at least `convolutions` calls of a convolution, and one copy of an activation for each
/// skip connection: its gradient.
void expect_contiguous(const StepCounts& counts, int64_t convolutions, int64_t skip_connections) {
  EXPECT_GE(counts.convolutions, convolutions);
  EXPECT_EQ(counts.strided_convolutions, 0);
  EXPECT_EQ(counts.group_norms, 0);
  int64_t copies = 0;
  std::string shapes;
  for (const auto& [shape, count] : counts.copies) {
    copies += count;
    shapes += std::to_string(count) + " of " + shape + "; ";
  }
  EXPECT_EQ(copies, skip_connections) << shapes;
}

class Layout : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!cpu::kernels_available()) GTEST_SKIP() << "this machine has no AVX2";
    torch::manual_seed(0);
    // The kernels of this library are no operators of LibTorch. Without them all convolutions are counted.
    set_winograd(WinogradMode::kOff);
    force_matrix_kernel(0);
  }
  void TearDown() override {
    force_matrix_kernel(kChosenLanes);
    set_winograd(mode_);
  }

 private:
  WinogradMode mode_ = winograd();
};

TEST_F(Layout, OfTheMnistModelIsContiguous) {
  UNet2DModel model({.sample_size = 28,
                     .in_channels = 1,
                     .out_channels = 1,
                     .down_block_types = {"DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"},
                     .up_block_types = {"AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"},
                     .block_out_channels = {32, 64, 64},
                     .layers_per_block = 2});
  const Tensor sample = torch::randn({kBatch, 1, 28, 28});
  const Tensor target = torch::randn_like(sample);
  const Tensor timesteps = torch::randint(0, 1000, {kBatch});
  expect_contiguous(
      count_operators([&] { torch::mse_loss(model->forward(sample, timesteps).sample, target).backward(); }),
      90, 9);
}

TEST_F(Layout, OfAUNet2DModelWithScaleShiftIsContiguous) {
  UNet2DModel model({.sample_size = 16,
                     .in_channels = 3,
                     .out_channels = 3,
                     .down_block_types = {"ResnetDownsampleBlock2D", "AttnDownBlock2D"},
                     .up_block_types = {"AttnUpBlock2D", "ResnetUpsampleBlock2D"},
                     .block_out_channels = {16, 32},
                     .layers_per_block = 1,
                     .norm_num_groups = 8,
                     .resnet_time_scale_shift = ResnetTimeScaleShift::kScaleShift});
  const Tensor sample = torch::randn({kBatch, 3, 16, 16});
  const Tensor target = torch::randn_like(sample);
  expect_contiguous(
      count_operators([&] { torch::mse_loss(model->forward(sample, 7).sample, target).backward(); }), 30, 4);
}

TEST_F(Layout, OfAUNet2DConditionModelIsContiguous) {
  for (const bool linear : {false, true}) {
    SCOPED_TRACE(linear);
    UNet2DConditionModel model({.sample_size = 8,
                                .in_channels = 4,
                                .out_channels = 4,
                                .down_block_types = {"CrossAttnDownBlock2D", "DownBlock2D"},
                                .up_block_types = {"UpBlock2D", "CrossAttnUpBlock2D"},
                                .block_out_channels = {16, 32},
                                .layers_per_block = 1,
                                .norm_num_groups = 8,
                                .cross_attention_dim = 24,
                                .attention_head_dim = 2,
                                .use_linear_projection = linear});
    const Tensor sample = torch::randn({kBatch, 4, 8, 8});
    const Tensor target = torch::randn_like(sample);
    const Tensor states = torch::randn({kBatch, 7, 24});
    expect_contiguous(count_operators([&] {
                        torch::mse_loss(model->forward(sample, 7, states).sample, target).backward();
                      }),
                      30, 4);
  }
}

TEST_F(Layout, OfAnAutoencoderKLIsContiguous) {
  AutoencoderKL model({.down_block_types = {"DownEncoderBlock2D", "DownEncoderBlock2D"},
                       .up_block_types = {"UpDecoderBlock2D", "UpDecoderBlock2D"},
                       .block_out_channels = {16, 32},
                       .norm_num_groups = 8});
  const Tensor image = torch::randn({kBatch, 3, 16, 16});
  expect_contiguous(count_operators([&] {
                      const auto latents = model->encode(image).latent_dist.sample();
                      torch::mse_loss(model->decode(latents).sample, image).backward();
                    }),
                    25, 0);
}

}  // namespace
}  // namespace diffusers::test

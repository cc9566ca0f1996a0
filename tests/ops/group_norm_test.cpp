#include <limits>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/ops/group_norm.h>

#include <torch/autograd.h>

#include "ops/cpu/kernels.h"
#include "ops/reference.h"
#include "ops/support.h"

namespace diffusers {
namespace {

using testing::expect_close;
using testing::leaf;
using testing::normal;

/// The options of a group norm. `affine` passes weight and bias.
struct NormKind {
  const char* name;
  bool affine = true;
  bool offset = false;
  bool modulated = false;  // scale and shift
  bool silu = false;
};

const std::vector<NormKind> kNormKinds{{"plain"},
                                       {"without weight and bias", false},
                                       {"SiLU", true, false, false, true},
                                       {"offset and SiLU", true, true, false, true},
                                       {"scale and shift", true, false, true},
                                       {"scale, shift and SiLU", true, false, true, true},
                                       {"scale and shift without weight and bias", false, false, true},
                                       {"everything", true, true, true, true}};

struct NormShape {
  std::vector<int64_t> sizes;
  int64_t num_groups;
};

const std::vector<NormShape> kNormShapes{{{1, 1, 5, 5}, 1},    {{2, 6, 7, 7}, 3},     {{3, 64, 14, 14}, 8},
                                         {{2, 32, 28, 28}, 8}, {{1, 1280, 3, 3}, 32}, {{2, 4, 17}, 2},
                                         {{3, 8, 1, 1}, 2},    {{1, 3, 4097}, 3},     {{2, 10, 3, 1, 11}, 5}};

/// x, weight, bias, offset, scale and shift, and the gradient of the result at the end.
std::vector<at::Tensor> make_norm_inputs(const std::vector<int64_t>& sizes) {
  manual_seed(5);
  const int64_t images = sizes[0];
  const int64_t channels = sizes[1];
  return {normal(sizes),
          normal({channels}),
          normal({channels}),
          normal({images, channels}),
          normal({images, channels}),
          normal({images, channels}),
          normal(sizes)};
}

struct NormArguments {
  at::Tensor x, weight, bias;
  GroupNormOptions options;
  std::vector<at::Tensor> used;  // the tensors that have gradients
};

NormArguments norm_arguments(const NormKind& kind, const std::vector<at::Tensor>& inputs) {
  NormArguments result{
      .x = inputs[0], .weight = {}, .bias = {}, .options = {.silu = kind.silu}, .used = {inputs[0]}};
  const auto use = [&](at::Tensor& to, std::size_t k) {
    to = inputs[k];
    result.used.push_back(inputs[k]);
  };
  if (kind.affine) {
    use(result.weight, 1);
    use(result.bias, 2);
  }
  if (kind.offset) use(result.options.offset, 3);
  if (kind.modulated) {
    use(result.options.scale, 4);
    use(result.options.shift, 5);
  }
  return result;
}

/// Returns the result and the gradients.
template <class Function>
std::vector<at::Tensor> run_norm(const Function& function, const NormKind& kind, int64_t num_groups,
                                 const std::vector<at::Tensor>& inputs, at::ScalarType dtype) {
  std::vector<at::Tensor> leaves;
  for (const auto& tensor : inputs) leaves.push_back(leaf(tensor, dtype));
  const auto arguments = norm_arguments(kind, leaves);
  const at::Tensor y = function(arguments.x, num_groups, arguments.weight, arguments.bias, arguments.options);
  auto result = torch::autograd::grad({y}, arguments.used, {inputs.back().to(dtype)});
  result.insert(result.begin(), y.detach());
  return result;
}

TEST(GroupNorm, FusedKernelMatchesLibTorch) {
  for (const auto& shape : kNormShapes) {
    const auto inputs = make_norm_inputs(shape.sizes);
    for (const auto& kind : kNormKinds) {
      SCOPED_TRACE(::testing::Message() << kind.name << ::testing::PrintToString(shape.sizes));
      const auto exact = run_norm(reference::group_norm, kind, shape.num_groups, inputs, at::kDouble);
      const auto plain = run_norm(reference::group_norm, kind, shape.num_groups, inputs, at::kFloat);
      const auto fused = run_norm(group_norm, kind, shape.num_groups, inputs, at::kFloat);
      ASSERT_EQ(fused.size(), exact.size());
      for (std::size_t k = 0; k < exact.size(); ++k) {
        // Without variation in a group the gradient of x is rounding error.
        const bool vanishes = exact[k].abs().max().item<double>() < 1e-3;
        if (vanishes) {
          EXPECT_LE(fused[k].abs().max().item<double>(), 1e-3);
          continue;
        }
        expect_close(fused[k], exact[k], 4e-6, "float64");
        expect_close(fused[k], plain[k], 1e-5, "float32");
      }
    }
  }
}

TEST(GroupNorm, KernelOfTheMachineDoesNotChangeBits) {
  if (!cpu::avx512_available()) GTEST_SKIP() << "this machine has no AVX-512";
  for (const auto& shape : kNormShapes) {
    const auto inputs = make_norm_inputs(shape.sizes);
    const int64_t images = shape.sizes[0];
    const int64_t channels = shape.sizes[1];
    const cpu::GroupNormShape sizes{shape.num_groups, channels / shape.num_groups,
                                    inputs[0].numel() / (images * channels)};
    for (const bool silu : {false, true}) {
      SCOPED_TRACE(::testing::Message() << silu << ::testing::PrintToString(shape.sizes));
      const cpu::GroupNormParameters parameters{.weight = inputs[4].const_data_ptr<float>(),
                                                .bias = inputs[5].const_data_ptr<float>(),
                                                .image_stride = channels,
                                                .offset = silu ? inputs[3].const_data_ptr<float>() : nullptr,
                                                .silu = silu};
      const auto run = [&](auto forward, auto backward) {
        const int64_t items = images * shape.num_groups;
        std::vector<at::Tensor> results{at::empty_like(inputs[0]), at::empty({items}), at::empty({items}),
                                        at::empty_like(inputs[0])};
        for (int k = 0; k < 3; ++k) results.push_back(at::zeros({images, channels}));
        const auto data = [&](std::size_t k) { return results[k].mutable_data_ptr<float>(); };
        const auto* x = inputs[0].const_data_ptr<float>();
        const cpu::GroupNormStatistics statistics{data(1), data(2)};
        forward(sizes, parameters, 1e-5, x, data(0), statistics, 0, items);
        backward(sizes, parameters, inputs[6].const_data_ptr<float>(), x, statistics,
                 cpu::GroupNormGradientViews{data(3), data(4), data(5), silu ? data(6) : nullptr}, 0, items);
        return results;
      };
      const auto narrow = run(cpu::avx2::group_norm_forward, cpu::avx2::group_norm_backward);
      const auto wide = run(cpu::avx512::group_norm_forward, cpu::avx512::group_norm_backward);
#if defined(__clang__)
      for (std::size_t k = 0; k < narrow.size(); ++k) expect_close(wide[k], narrow[k], 2e-6, "AVX-512");
#else
      for (std::size_t k = 0; k < narrow.size(); ++k) EXPECT_TRUE(at::equal(narrow[k], wide[k])) << k;
#endif
    }
  }
}

TEST(GroupNorm, FusedKernelIsChosenForFloat32) {
  if (!cpu::kernels_available()) GTEST_SKIP() << "this machine has no AVX2";
  const auto node = [](const at::Tensor& x) {
    const at::Tensor ones = at::ones({x.size(1)}, x.options());
    return group_norm(leaf(x, x.scalar_type()), 2, ones, ones).grad_fn()->name();
  };
  const auto is_fused = [&](const at::Tensor& x) {
    return node(x).find("GroupNormFunction") != std::string::npos;
  };
  const at::Tensor x = normal({2, 4, 6, 6});
  EXPECT_TRUE(is_fused(x));
  EXPECT_TRUE(is_fused(x.contiguous(at::MemoryFormat::ChannelsLast)));
  EXPECT_EQ(node(x.to(at::kDouble)), "NativeGroupNormBackward0");
  EXPECT_EQ(node(x.to(at::kBFloat16)), "NativeGroupNormBackward0");
  const testing::FusedCpu off(false);
  EXPECT_EQ(node(x), "NativeGroupNormBackward0");
}

TEST(GroupNorm, LayoutsOfInputsAndGradientsDoNotMatter) {
  const auto inputs = make_norm_inputs({2, 8, 6, 5});
  const auto& everything = kNormKinds.back();
  const auto expected = run_norm(group_norm, everything, 4, inputs, at::kFloat);
  auto moved = inputs;
  moved[0] = inputs[0].contiguous(at::MemoryFormat::ChannelsLast);
  moved[6] = inputs[6].transpose(2, 3).contiguous().transpose(2, 3);
  for (std::size_t k = 3; k < 6; ++k) moved[k] = inputs[k].t().contiguous().t();
  const auto actual = run_norm(group_norm, everything, 4, moved, at::kFloat);
  for (std::size_t k = 0; k < expected.size(); ++k) EXPECT_TRUE(at::equal(expected[k], actual[k]));
  EXPECT_TRUE(actual[0].is_contiguous());

  const at::Tensor wide = normal({2, 16, 6, 5});
  EXPECT_TRUE(at::equal(group_norm(wide.slice(1, 4, 12), 4, inputs[1], inputs[2]),
                        group_norm(wide.slice(1, 4, 12).contiguous(), 4, inputs[1], inputs[2])));
  // One row of values is shared by all images.
  const GroupNormOptions one{.offset = inputs[3].slice(0, 0, 1)};
  const GroupNormOptions all{.offset = inputs[3].slice(0, 0, 1).expand({2, 8}).contiguous()};
  EXPECT_TRUE(at::equal(group_norm(inputs[0], 4, inputs[1], inputs[2], one),
                        group_norm(inputs[0], 4, inputs[1], inputs[2], all)));
}

TEST(GroupNorm, RepeatsBitForBitWithAnyNumberOfThreads) {
  const auto inputs = make_norm_inputs({4, 32, 28, 28});
  const auto once = [&](int threads) {
    const testing::Threads scope(threads);
    return run_norm(group_norm, kNormKinds.back(), 8, inputs, at::kFloat);
  };
  const auto first = once(2);
  for (const int threads : {2, 1, 3}) {
    const auto again = once(threads);
    for (std::size_t k = 0; k < first.size(); ++k) EXPECT_TRUE(at::equal(first[k], again[k]));
  }
}

TEST(GroupNorm, GradientOfTheGradientMatchesFloat64) {
  const auto inputs = make_norm_inputs({2, 6, 4, 3});
  for (const auto& kind : kNormKinds) {
    SCOPED_TRACE(kind.name);
    const auto second = [&](auto function, at::ScalarType dtype) {
      std::vector<at::Tensor> leaves;
      for (const auto& tensor : inputs) leaves.push_back(leaf(tensor, dtype));
      auto arguments = norm_arguments(kind, leaves);
      const at::Tensor y = function(arguments.x, 3, arguments.weight, arguments.bias, arguments.options);
      const auto first = torch::autograd::grad({y}, arguments.used, {leaves.back()}, true, true);
      at::Tensor penalty = at::zeros({}, y.options());
      for (const auto& gradient : first) penalty = penalty + gradient.square().sum();
      // The gradient for bias, and that for shift, does not depend on the parameters of a norm without SiLU.
      return torch::autograd::grad({penalty}, {leaves[0], leaves.back()});
    };
    const auto expected = second(reference::group_norm, at::kDouble);
    const auto actual = second(group_norm, at::kFloat);
    for (std::size_t k = 0; k < expected.size(); ++k)
      expect_close(actual[k], expected[k], 2e-5, "second gradient");
  }
}

TEST(GroupNorm, GradientMatchesFiniteDifferences) {
  std::vector<at::Tensor> inputs;
  for (const auto& tensor : make_norm_inputs({2, 4, 3, 2})) inputs.push_back(tensor.to(at::kDouble));
  for (const auto& kind : kNormKinds) {
    SCOPED_TRACE(kind.name);
    const auto gradients = run_norm(group_norm, kind, 2, inputs, at::kDouble);
    constexpr double kStep = 1e-5;
    std::size_t position = 1;
    for (std::size_t k = 0; k < 6; ++k) {
      const bool used = k == 0 || (k < 3 ? kind.affine : k == 3 ? kind.offset : kind.modulated);
      if (!used) continue;
      const at::Tensor gradient = gradients[position++];
      for (int64_t i = 0; i < inputs[k].numel(); ++i) {
        double loss[2];
        for (const int side : {0, 1}) {
          auto moved = inputs;
          moved[k] = inputs[k].clone();
          moved[k].view(-1)[i] += side == 1 ? kStep : -kStep;
          const auto arguments = norm_arguments(kind, moved);
          loss[side] = (group_norm(arguments.x, 2, arguments.weight, arguments.bias, arguments.options) *
                        inputs.back())
                           .sum()
                           .item<double>();
        }
        EXPECT_NEAR((loss[1] - loss[0]) / (2 * kStep), gradient.reshape(-1)[i].item<double>(), 1e-7);
      }
    }
  }
}

TEST(GroupNorm, OtherDtypesMatchTheComposition) {
  const auto inputs = make_norm_inputs({2, 8, 6, 6});
  for (const auto& kind : kNormKinds) {
    SCOPED_TRACE(kind.name);
    const auto arguments = norm_arguments(kind, inputs);
    const at::Tensor expected =
        group_norm(arguments.x, 4, arguments.weight, arguments.bias, arguments.options);
    for (const auto dtype : {at::kBFloat16, at::kDouble}) {
      std::vector<at::Tensor> converted;
      for (const auto& tensor : inputs) converted.push_back(tensor.to(dtype));
      const auto other = norm_arguments(kind, converted);
      const at::Tensor y = group_norm(other.x, 4, other.weight, other.bias, other.options);
      EXPECT_EQ(y.scalar_type(), dtype);
      expect_close(y, expected, dtype == at::kDouble ? 2e-6 : 4e-2, "dtype");
    }
  }
}

TEST(GroupNorm, AnEmptyBatchGivesZeroGradients) {
  for (const auto& kind : kNormKinds) {
    SCOPED_TRACE(kind.name);
    const auto results = run_norm(group_norm, kind, 4, make_norm_inputs({0, 8, 4, 4}), at::kFloat);
    EXPECT_EQ(results[0].sizes(), at::IntArrayRef({0, 8, 4, 4}));
    for (const auto& gradient : results) EXPECT_FALSE(gradient.ne(0).any().item<bool>());
  }
}

TEST(GroupNorm, NotANumberStaysVisible) {
  at::Tensor x = normal({2, 4, 9});
  x[0][1][8] = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor y = group_norm(x, 2, at::Tensor(), at::Tensor());
  EXPECT_TRUE(y[0].slice(0, 0, 2).isnan().all().item<bool>());
  EXPECT_EQ(y.isnan().sum().item<int64_t>(), 18);
}

TEST(GroupNorm, RefusesWhatDoesNotFit) {
  const at::Tensor x = normal({2, 8, 4, 4});
  const at::Tensor ones = at::ones({8});
  const at::Tensor rows = at::ones({2, 8});
  EXPECT_NO_THROW(group_norm(x, 4, ones, ones, {.offset = rows, .scale = rows, .shift = rows}));
  EXPECT_NO_THROW(group_norm(x, 4, {}, ones));
  EXPECT_THROW(group_norm(x, 3, ones, ones), TensorError);
  EXPECT_THROW(group_norm(x, 4, ones, at::ones({7})), TensorError);
  EXPECT_THROW(group_norm(x, 4, ones, ones, {.eps = -1}), TensorError);
  EXPECT_THROW(group_norm(x, 4, ones, ones, {.scale = rows}), TensorError);
  EXPECT_THROW(group_norm(x, 4, ones, ones, {.shift = rows}), TensorError);
  EXPECT_THROW(group_norm(x, 4, ones, ones, {.offset = ones}), TensorError);
  EXPECT_THROW(group_norm(x, 4, ones, ones, {.offset = at::ones({3, 8})}), TensorError);
  EXPECT_THROW(group_norm(x, 4, ones, ones, {.offset = rows.to(at::kLong)}), TensorError);
  EXPECT_THROW(group_norm(x, 4, ones, ones, {.scale = rows, .shift = at::ones({2, 7})}), TensorError);
}

}  // namespace
}  // namespace diffusers

#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/ops/attention.h>

#include <torch/autograd.h>

#include "ops/cpu/kernels.h"
#include "ops/reference.h"
#include "ops/support.h"

namespace diffusers {
namespace {

using testing::expect_close;
using testing::leaf;
using testing::normal;

struct AttentionCase {
  int64_t batch, heads, queries, keys, depth;
  double spread = 1;  // standard deviation of the query
};

const std::vector<AttentionCase> kAttentionCases{
    {2, 3, 49, 49, 8}, {1, 2, 196, 196, 8},   {2, 2, 64, 64, 16}, {1, 2, 100, 77, 32},
    {2, 1, 17, 5, 24}, {1, 1, 1, 1, 8},       {3, 2, 9, 65, 4},   {1, 2, 8, 130, 12},
    {2, 2, 33, 3, 1},  {1, 2, 50, 70, 8, 40}, {2, 4, 24, 64, 20}};

/// Query, key, value and the gradient of the output, laid out like the heads of a projection.
std::vector<at::Tensor> make_heads(const AttentionCase& test) {
  manual_seed(3);
  const auto heads = [&](int64_t length) {
    return normal({test.batch, length, test.heads, test.depth}).transpose(1, 2);
  };
  return {heads(test.queries) * test.spread, heads(test.keys), heads(test.keys), heads(test.queries)};
}

struct AttentionRun {
  at::Tensor output;
  std::vector<at::Tensor> gradients;
};

template <class Function>
AttentionRun run_attention(const Function& function, const std::vector<at::Tensor>& heads,
                           at::ScalarType dtype, const AttentionOptions& options = {}) {
  const at::Tensor query = leaf(heads[0], dtype);
  const at::Tensor key = leaf(heads[1], dtype);
  const at::Tensor value = leaf(heads[2], dtype);
  const at::Tensor output = function(query, key, value, options);
  return {output.detach(), torch::autograd::grad({output}, {query, key, value}, {heads[3].to(dtype)})};
}

TEST(Attention, MatchesFloat64) {
  for (const auto& test : kAttentionCases) {
    SCOPED_TRACE(::testing::Message()
                 << test.queries << " queries, " << test.keys << " keys, depth " << test.depth);
    const auto heads = make_heads(test);
    for (const auto scale : {std::optional<double>(), std::optional<double>(0.3)}) {
      const auto expected = run_attention(reference::attention, heads, at::kDouble, {.scale = scale});
      const auto actual = run_attention(attention, heads, at::kFloat, {.scale = scale});
      // Scores have a relative rounding error, which the softmax turns into an absolute error.
      const double tolerance = 2e-6 * (1 + test.spread);
      expect_close(actual.output, expected.output, tolerance, "output");
      const char* names[] = {"grad query", "grad key", "grad value"};
      for (std::size_t k = 0; k < 3; ++k) {
        // With one key the first two gradients are exactly zero.
        if (test.keys == 1 && k < 2) {
          EXPECT_LE(actual.gradients[k].abs().max().item<double>(), 1e-5);
        } else {
          expect_close(actual.gradients[k], expected.gradients[k], 2 * tolerance, names[k]);
        }
      }
    }
  }
}

TEST(Attention, FusedKernelIsChosenWhereItPays) {
  if (!cpu::kernels_available()) GTEST_SKIP() << "this machine has no AVX2";
  const auto is_fused = [](const AttentionCase& test, at::ScalarType dtype, const AttentionOptions& options) {
    const auto heads = make_heads(test);
    const at::Tensor output =
        attention(leaf(heads[0], dtype), leaf(heads[1], dtype), leaf(heads[2], dtype), options);
    return output.grad_fn()->name().find("AttentionFunction") != std::string::npos;
  };
  const AttentionCase small{2, 4, 49, 49, 8};
  EXPECT_TRUE(is_fused(small, at::kFloat, {}));
  EXPECT_FALSE(is_fused(small, at::kDouble, {}));
  EXPECT_FALSE(is_fused(small, at::kBFloat16, {}));
  EXPECT_FALSE(is_fused(small, at::kFloat, {.is_causal = true}));
  EXPECT_FALSE(is_fused(small, at::kFloat, {.mask = at::ones({49, 49}, at::kBool)}));
  EXPECT_FALSE(is_fused({1, 2, 32, 32, 64}, at::kFloat, {}));
  EXPECT_FALSE(is_fused({1, 1, 8, 300, 32}, at::kFloat, {}));
  const testing::FusedCpu off(false);
  EXPECT_FALSE(is_fused(small, at::kFloat, {}));
}

TEST(Attention, RepeatsBitForBitWithAnyNumberOfThreads) {
  const auto heads = make_heads({3, 4, 196, 196, 8});
  const auto once = [&](int threads) {
    const testing::Threads scope(threads);
    return run_attention(attention, heads, at::kFloat);
  };
  const auto first = once(2);
  for (const int threads : {2, 1, 3}) {
    const auto again = once(threads);
    EXPECT_TRUE(at::equal(first.output, again.output));
    for (std::size_t k = 0; k < 3; ++k) EXPECT_TRUE(at::equal(first.gradients[k], again.gradients[k]));
  }
}

TEST(Attention, GradientOfTheGradientMatchesFloat64) {
  const auto heads = make_heads({2, 2, 10, 7, 8});
  const auto second = [&](at::ScalarType dtype) {
    std::vector<at::Tensor> leaves;
    for (const auto& tensor : heads) leaves.push_back(leaf(tensor, dtype));
    const at::Tensor output = attention(leaves[0], leaves[1], leaves[2]);
    const auto first =
        torch::autograd::grad({output}, {leaves[0], leaves[1], leaves[2]}, {leaves[3]}, true, true);
    const at::Tensor penalty = first[0].square().sum() + first[1].square().sum() + first[2].square().sum();
    return torch::autograd::grad({penalty}, leaves);
  };
  const auto actual = second(at::kFloat);
  // LibTorch's float64 kernel has no second derivative, so the formula is compared with the composition of
  // operations.
  std::vector<at::Tensor> leaves;
  for (const auto& tensor : heads) leaves.push_back(leaf(tensor, at::kDouble));
  const at::Tensor weights =
      at::softmax(at::matmul(leaves[0], leaves[1].transpose(2, 3)) / std::sqrt(8.0), -1);
  const auto first = torch::autograd::grad({at::matmul(weights, leaves[2])},
                                           {leaves[0], leaves[1], leaves[2]}, {leaves[3]}, true, true);
  const auto expected = torch::autograd::grad(
      {first[0].square().sum() + first[1].square().sum() + first[2].square().sum()}, leaves);
  for (std::size_t k = 0; k < expected.size(); ++k)
    expect_close(actual[k], expected[k], 1e-5, "second gradient");
}

TEST(Attention, GradientMatchesFiniteDifferences) {
  const auto heads = make_heads({1, 2, 4, 3, 2});
  const auto gradients = run_attention(attention, heads, at::kDouble).gradients;
  constexpr double kStep = 1e-5;
  for (std::size_t k = 0; k < 3; ++k) {
    for (int64_t i = 0; i < heads[k].numel(); ++i) {
      double loss[2];
      for (const int side : {0, 1}) {
        std::vector<at::Tensor> moved;
        for (const auto& tensor : heads) moved.push_back(tensor.to(at::kDouble).contiguous());
        moved[k] = moved[k].clone();
        moved[k].view(-1)[i] += side == 1 ? kStep : -kStep;
        loss[side] = (attention(moved[0], moved[1], moved[2]) * moved[3]).sum().item<double>();
      }
      EXPECT_NEAR((loss[1] - loss[0]) / (2 * kStep), gradients[k].contiguous().view(-1)[i].item<double>(),
                  1e-7);
    }
  }
}

TEST(Attention, LayoutsOfInputsAndGradientsDoNotMatter) {
  const auto heads = make_heads({2, 3, 20, 20, 8});
  const at::Tensor expected = attention(heads[0], heads[1], heads[2]);
  EXPECT_TRUE(
      at::equal(expected, attention(heads[0].contiguous(), heads[1].contiguous(), heads[2].contiguous())));
  // Elements of the last dimension are not adjacent in memory.
  const auto apart = [](const at::Tensor& tensor) {
    return tensor.transpose(2, 3).contiguous().transpose(2, 3);
  };
  expect_close(attention(apart(heads[0]), apart(heads[1]), apart(heads[2])), expected, 1e-5, "strided");
  // All images share the key of one image.
  const at::Tensor key = heads[1].slice(0, 0, 1);
  expect_close(attention(heads[0], key.expand_as(heads[1]), heads[2]),
               attention(heads[0], key.expand_as(heads[1]).contiguous(), heads[2]), 0, "expanded");
  // The backward of a sum passes a gradient with strides of zero.
  const at::Tensor query = leaf(heads[0], at::kFloat);
  const auto sum_grad = torch::autograd::grad({attention(query, heads[1], heads[2]).sum()}, {query})[0];
  const auto ones_grad =
      torch::autograd::grad({attention(query, heads[1], heads[2])}, {query}, {at::ones_like(query)});
  EXPECT_TRUE(at::equal(sum_grad, ones_grad[0]));
}

TEST(Attention, MasksMatchTheDefinition) {
  const auto heads = make_heads({2, 3, 12, 9, 8});
  const at::Tensor scores = at::matmul(heads[0], heads[1].transpose(2, 3)) / std::sqrt(8.0);
  const auto expected = [&](const at::Tensor& bias) {
    return at::matmul(at::softmax(scores + bias, -1), heads[2]);
  };
  const at::Tensor added = normal({2, 1, 1, 9});
  expect_close(attention(heads[0], heads[1], heads[2], {.mask = added}), expected(added), 1e-5, "added");
  const at::Tensor keep = at::arange(9).remainder(3).ne(0).expand({12, 9});
  const at::Tensor bias =
      at::zeros({12, 9}).masked_fill(keep.logical_not(), -std::numeric_limits<float>::infinity());
  expect_close(attention(heads[0], heads[1], heads[2], {.mask = keep}), expected(bias), 1e-5, "boolean");
  const auto square = make_heads({1, 2, 12, 12, 8});
  const at::Tensor later = at::ones({12, 12}, at::kBool).triu(1);
  const at::Tensor causal = at::softmax(
      (at::matmul(square[0], square[1].transpose(2, 3)) / std::sqrt(8.0)).masked_fill(later, -1e30), -1);
  expect_close(attention(square[0], square[1], square[2], {.is_causal = true}), at::matmul(causal, square[2]),
               1e-5, "causal");
}

TEST(Attention, EmptyBatchesAndQueriesGiveEmptyResults) {
  for (const AttentionCase& test : {AttentionCase{0, 2, 16, 16, 8}, AttentionCase{2, 2, 0, 16, 8}}) {
    const auto heads = make_heads(test);
    const auto result = run_attention(attention, heads, at::kFloat);
    EXPECT_EQ(result.output.sizes(), heads[0].sizes());
    for (std::size_t k = 0; k < 3; ++k) {
      EXPECT_EQ(result.gradients[k].sizes(), heads[k].sizes());
      EXPECT_FALSE(result.gradients[k].ne(0).any().item<bool>());
    }
  }
}

TEST(Attention, NotANumberStaysVisible) {
  auto heads = make_heads({1, 2, 20, 20, 8});
  heads[0][0][1][3][2] = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor output = attention(heads[0], heads[1], heads[2]);
  EXPECT_TRUE(output[0][1][3].isnan().all().item<bool>());
  EXPECT_EQ(output.isnan().sum().item<int64_t>(), 8);
}

TEST(Attention, RefusesWhatDoesNotFit) {
  const at::Tensor query = normal({2, 3, 12, 8});
  const at::Tensor key = normal({2, 3, 9, 8});
  EXPECT_NO_THROW(attention(query, key, key));
  EXPECT_THROW(attention(at::Tensor(), key, key), TensorError);
  EXPECT_THROW(attention(query[0], key[0], key[0]), TensorError);
  EXPECT_THROW(attention(query, key.to(at::kDouble), key), TensorError);
  EXPECT_THROW(attention(query, key.slice(3, 0, 4), key), TensorError);
  EXPECT_THROW(attention(query, key.slice(1, 0, 2), key.slice(1, 0, 2)), TensorError);
  EXPECT_THROW(attention(query, key, key.slice(2, 0, 4)), TensorError);
  EXPECT_THROW(attention(query, key.slice(2, 0, 0), key.slice(2, 0, 0)), TensorError);
  EXPECT_THROW(attention(query.to(at::kLong), key.to(at::kLong), key.to(at::kLong)), TensorError);
  EXPECT_THROW(attention(query, key, key, {.mask = at::ones({12, 8}, at::kBool)}), TensorError);
  EXPECT_THROW(attention(query, key, key, {.mask = at::ones({12, 9}, at::kLong)}), TensorError);
  EXPECT_THROW(attention(query, key, key, {.mask = at::ones({12, 9}), .is_causal = true}), TensorError);
  EXPECT_THROW(attention(query, key, key, {.scale = std::numeric_limits<double>::infinity()}), TensorError);
}

}  // namespace
}  // namespace diffusers

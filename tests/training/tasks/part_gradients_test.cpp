#include "training/tasks/part_gradients.h"

#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/variable.h>

#include "support/allocation_counter.h"
#include "support/golden.h"

namespace diffusers {
namespace {

std::size_t hooks_of(const Tensor& parameter) {
  const auto* meta = torch::autograd::impl::get_autograd_meta(parameter);
  return meta->cpp_hooks_list_ ? meta->cpp_hooks_list_->size() : 0;
}

// In float32 another order gives other sums. The two parameters share the tensor of their gradient.
TEST(PartGradients, AddsInTheOrderOfTheParts) {
  const std::vector<float> values{1e8F, 1, -1e8F, 3};
  for (const std::vector<std::size_t>& order :
       {std::vector<std::size_t>{0, 1, 2, 3}, {3, 1, 2, 0}, {2, 3, 0, 1}}) {
    const Tensor a = at::ones({2, 3}).requires_grad_();
    const Tensor b = at::ones({2, 3}).requires_grad_();
    const Tensor unused = at::ones({4}).requires_grad_();
    const Tensor input = at::full({2, 3}, 2.0).requires_grad_();
    PartGradients gradients({a, b, unused}, values.size());
    for (const std::size_t part : order) {
      Tensor output = (a + b) * input;
      const std::vector<Tensor> found =
          gradients.backward(part, output, at::full({2, 3}, values[part]), {input});
      EXPECT_FALSE(output.defined());
      ASSERT_EQ(found.size(), 1U);
      test::expect_equal(found[0], at::full({2, 3}, 2 * values[part]));
    }
    float sum = 2 * values[0];
    for (std::size_t i = 1; i < values.size(); ++i) sum += 2 * values[i];
    test::expect_equal(gradients.take_sum(0), at::full({2, 3}, sum));
    test::expect_equal(gradients.take_sum(1), at::full({2, 3}, sum));
    EXPECT_FALSE(gradients.take_sum(2).defined());
    for (const Tensor& parameter : {a, b, unused}) EXPECT_FALSE(parameter.grad().defined());
  }
}

TEST(PartGradients, PassesOverPartsWithoutGradients) {
  const Tensor weight = at::ones({3}).requires_grad_();
  PartGradients gradients({weight}, 3);
  Tensor output = weight * 2;
  gradients.backward(1, output, at::ones({3}), {});
  gradients.skip(2);
  gradients.skip(0);
  test::expect_equal(gradients.take_sum(0), at::full({3}, 2.0));
}

// As gradient checkpointing does: the gradient of a parameter has several terms, one of them from a pass
// within the pass.
TEST(PartGradients, LeavesPassesWithinThePassAlone) {
  struct Inner : torch::autograd::Function<Inner> {
    static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const Tensor& weight) {
      context->save_for_backward({x, weight});
      return x * weight;
    }
    static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                   const torch::autograd::variable_list& grads) {
      const auto saved = context->get_saved_variables();
      const at::AutoGradMode with_grad(true);
      const Tensor x = saved[0].detach().requires_grad_();
      const Tensor y = x * saved[1];
      return torch::autograd::grad({y}, {x, saved[1]}, {grads[0]});
    }
  };
  const Tensor weight = at::full({3}, 5.0).requires_grad_();
  const Tensor x = at::full({3}, 7.0).requires_grad_();
  PartGradients gradients({weight}, 2);
  for (std::size_t part = 0; part < 2; ++part) {
    Tensor output = Inner::apply(x, weight) + weight * 100;
    const std::vector<Tensor> found = gradients.backward(part, output, at::ones({3}), {x});
    test::expect_equal(found[0], at::full({3}, 5.0));
  }
  test::expect_equal(gradients.take_sum(0), at::full({3}, 214.0));
}

TEST(PartGradients, KeepsTheHooksOfTheProgramAndNoOthers) {
  const Tensor weight = at::ones({3}).requires_grad_();
  int calls = 0;
  weight.register_hook([&](const Tensor& grad) {
    ++calls;
    return grad * 10;
  });
  {
    PartGradients gradients({weight}, 1);
    Tensor output = weight * 2;
    gradients.backward(0, output, at::ones({3}), {});
    test::expect_equal(gradients.take_sum(0), at::full({3}, 20.0));
    EXPECT_EQ(hooks_of(weight), 2U);
  }
  EXPECT_EQ(hooks_of(weight), 1U);
  weight.sum().backward();
  test::expect_equal(weight.grad(), at::full({3}, 10.0));
  EXPECT_EQ(calls, 2);
}

TEST(PartGradients, HoldOneSetOfGradients) {
  constexpr int64_t kWidth = 256;
  constexpr int64_t kLayers = 6;
  constexpr std::size_t kParts = 4;
  constexpr int64_t kSet = kLayers * kWidth * kWidth * 4;
  std::vector<Tensor> weights;
  for (int64_t i = 0; i < kLayers; ++i)
    weights.push_back((at::randn({kWidth, kWidth}) / 16).requires_grad_());
  std::vector<Tensor> outputs;
  for (std::size_t part = 0; part < kParts; ++part) {
    Tensor x = at::ones({1, kWidth});
    for (const Tensor& weight : weights) x = x.mm(weight);
    outputs.push_back(x);
  }
  test::AllocationCounter counter;
  PartGradients gradients(weights, kParts);
  for (std::size_t part = 0; part < kParts; ++part)
    gradients.backward(part, outputs[part], at::ones({1, kWidth}), {});
  EXPECT_GE(counter.live(), kSet);
  EXPECT_LT(counter.peak(), kSet + kSet / 2);
}

}  // namespace
}  // namespace diffusers

// The optimizer step of AdamW and Adam and the EMA on the CPU.

#include "ops/cpu/adamw.h"

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/random.h>

#include <ATen/core/grad_mode.h>

#include "ops/cpu/kernels.h"
#include "ops/support.h"
#include "support/enabled_kernels.h"

namespace diffusers {
namespace {

using testing::expect_close;
using testing::FusedCpu;
using testing::normal;
using testing::Threads;

using TensorList = std::vector<at::Tensor>;

/// All sizes around the lengths of the vectors, and some of several items.
std::vector<int64_t> odd_sizes() {
  std::vector<int64_t> sizes{16384, 16385, 100003, 0};
  for (int64_t size = 1; size <= 70; ++size) sizes.push_back(size);
  return sizes;
}

cpu::AdamWGroup random_group(const std::vector<int64_t>& sizes, bool is_decoupled, double weight_decay) {
  cpu::AdamWGroup group;
  for (const int64_t size : sizes) {
    group.params.push_back(normal({size}));
    group.grads.push_back(normal({size}));
    group.exp_avgs.push_back(at::zeros({size}));
    group.exp_avg_sqs.push_back(at::zeros({size}));
    group.steps.push_back(at::zeros({}));
    group.averages.push_back(normal({size}));
  }
  group.learning_rate = 1e-2;
  group.beta1 = 0.9;
  group.beta2 = 0.999;
  group.eps = 1e-8;
  group.weight_decay = weight_decay;
  group.is_decoupled = is_decoupled;
  return group;
}

TensorList cloned_list(const TensorList& tensors) {
  TensorList clones;
  for (const at::Tensor& tensor : tensors) clones.push_back(tensor.clone());
  return clones;
}

cpu::AdamWGroup cloned_group(cpu::AdamWGroup group) {
  for (TensorList* list :
       {&group.params, &group.grads, &group.exp_avgs, &group.exp_avg_sqs, &group.steps, &group.averages})
    *list = cloned_list(*list);
  return group;
}

/// NaN included.
bool have_equal_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() &&
         std::memcmp(a.const_data_ptr(), b.const_data_ptr(), static_cast<std::size_t>(a.nbytes())) == 0;
}

void expect_equal_bits(const TensorList& a, const TensorList& b, const char* what) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i)
    EXPECT_TRUE(have_equal_bits(a[i], b[i])) << what << " of size " << a[i].numel();
}

void expect_equal_groups(const cpu::AdamWGroup& a, const cpu::AdamWGroup& b) {
  expect_equal_bits(a.params, b.params, "a parameter");
  expect_equal_bits(a.grads, b.grads, "a gradient");
  expect_equal_bits(a.exp_avgs, b.exp_avgs, "a first moment");
  expect_equal_bits(a.exp_avg_sqs, b.exp_avg_sqs, "a second moment");
  expect_equal_bits(a.steps, b.steps, "a step count");
  expect_equal_bits(a.averages, b.averages, "an average");
}

class CpuAdamW : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!cpu::kernels_available()) GTEST_SKIP() << "this machine has no AVX2";
    manual_seed(21);
  }

 private:
  at::NoGradGuard no_grad_;
  test::EnabledKernels kernels_;
  FusedCpu fused_{true};
};

TEST_F(CpuAdamW, MatchesLibTorch) {
  for (const bool is_decoupled : {true, false})
    for (const double weight_decay : {0.0, 0.1}) {
      SCOPED_TRACE(::testing::Message() << (is_decoupled ? "AdamW" : "Adam") << ", " << weight_decay);
      const cpu::AdamWGroup own = random_group(odd_sizes(), is_decoupled, weight_decay);
      const cpu::AdamWGroup other = cloned_group(own);
      for (int step = 0; step < 6; ++step) {
        for (std::size_t i = 0; i < own.grads.size(); ++i) {
          own.grads[i].copy_(normal(own.grads[i].sizes()));
          other.grads[i].copy_(own.grads[i]);
        }
        cpu::run_adamw({own}, 1.0F, 0.0F, /*is_skipped=*/false);
        at::_foreach_add_(other.steps, 1);
        const auto run = [&](auto kernel) {
          kernel(other.params, other.grads, other.exp_avgs, other.exp_avg_sqs, TensorList(), other.steps,
                 own.learning_rate, own.beta1, own.beta2, weight_decay, own.eps, /*amsgrad=*/false,
                 /*maximize=*/false, std::optional<at::Tensor>(), std::optional<at::Tensor>());
        };
        if (is_decoupled) {
          run([](const auto&... arguments) { at::_fused_adamw_(arguments...); });
        } else {
          run([](const auto&... arguments) { at::_fused_adam_(arguments...); });
        }
      }
      for (std::size_t i = 0; i < own.params.size(); ++i) {
        expect_close(own.params[i], other.params[i], 1e-6, "parameter");
        expect_close(own.exp_avgs[i], other.exp_avgs[i], 1e-6, "first moment");
        expect_close(own.exp_avg_sqs[i], other.exp_avg_sqs[i], 1e-6, "second moment");
      }
      expect_equal_bits(own.steps, other.steps, "a step count");
    }
}

TEST_F(CpuAdamW, InstructionSetsGiveEqualBits) {
  if (!cpu::avx512_available()) GTEST_SKIP() << "this machine has no AVX-512";
  constexpr int64_t kCount = 1031;
  const cpu::AdamWFactors plain{.grad_factor = 0.37F,
                                .shrink = 0.99F,
                                .beta1_rest = 0.1F,
                                .beta2 = 0.999F,
                                .beta2_rest = 0.001F,
                                .step_size = 1e-3F,
                                .eps = 1e-8F,
                                .average_weight = 0.01F};
  cpu::AdamWFactors other = plain;  // the other branches
  other.decay = 0.1F;
  other.beta1_rest = 0.7F;
  other.average_weight = 0.9F;
  for (const cpu::AdamWFactors& factors : {plain, other})
    for (const bool has_average : {true, false})
      for (const int64_t begin : {0, 1, 7})
        for (int64_t end = kCount - 35; end <= kCount; ++end) {
          const TensorList first{normal({kCount}), normal({kCount}), normal({kCount}),
                                 normal({kCount}).square(), normal({kCount})};
          const TensorList second = cloned_list(first);
          const auto pointers = [&](const TensorList& tensors) {
            return cpu::AdamWPointers{
                tensors[0].mutable_data_ptr<float>(), tensors[1].const_data_ptr<float>(),
                tensors[2].mutable_data_ptr<float>(), tensors[3].mutable_data_ptr<float>(),
                has_average ? tensors[4].mutable_data_ptr<float>() : nullptr};
          };
          cpu::avx2::adamw_step(factors, pointers(first), begin, end);
          cpu::avx512::adamw_step(factors, pointers(second), begin, end);
          expect_equal_bits(first, second, "a tensor");
          cpu::avx2::average_step(factors.average_weight, pointers(first).param,
                                  first[4].mutable_data_ptr<float>(), begin, end);
          cpu::avx512::average_step(factors.average_weight, pointers(second).param,
                                    second[4].mutable_data_ptr<float>(), begin, end);
          expect_equal_bits(first, second, "an average");
        }
}

TEST_F(CpuAdamW, KernelsLeaveOtherElementsAlone) {
  const at::Tensor ones = at::ones({40});
  TensorList tensors{ones.clone(), ones.clone(), ones.clone(), ones.clone(), ones.clone()};
  cpu::adamw_step(
      {.beta1_rest = 0.1F, .beta2 = 0.9F, .beta2_rest = 0.2F, .step_size = 0.1F, .average_weight = 0.5F},
      {tensors[0].mutable_data_ptr<float>(), tensors[1].const_data_ptr<float>(),
       tensors[2].mutable_data_ptr<float>(), tensors[3].mutable_data_ptr<float>(),
       tensors[4].mutable_data_ptr<float>()},
      3, 22);
  for (const std::size_t i : {0, 3, 4}) {
    EXPECT_EQ(tensors[i].ne(1).sum().item<int64_t>(), 19);
    EXPECT_EQ(tensors[i].slice(0, 3, 22).ne(1).sum().item<int64_t>(), 19);
  }
}

TEST_F(CpuAdamW, BitsDependNeitherOnThreadsNorOnOtherTensors) {
  const cpu::AdamWGroup start = random_group(odd_sizes(), true, 0.01);
  const cpu::AdamWGroup together = cloned_group(start);
  cpu::run_adamw({together}, 0.7F, 0.2F, /*is_skipped=*/false);
  for (const int threads : {1, 2, 3}) {
    SCOPED_TRACE(threads);
    const Threads scope(threads);
    const cpu::AdamWGroup again = cloned_group(start);
    cpu::run_adamw({again}, 0.7F, 0.2F, /*is_skipped=*/false);
    expect_equal_groups(again, together);
  }
  const cpu::AdamWGroup apart = cloned_group(start);
  for (std::size_t i = 0; i < apart.params.size(); ++i) {
    cpu::AdamWGroup one = apart;
    one.params = {apart.params[i]};
    one.grads = {apart.grads[i]};
    one.exp_avgs = {apart.exp_avgs[i]};
    one.exp_avg_sqs = {apart.exp_avg_sqs[i]};
    one.steps = {apart.steps[i]};
    one.averages = {apart.averages[i]};
    cpu::run_adamw({one}, 0.7F, 0.2F, /*is_skipped=*/false);
  }
  expect_equal_groups(apart, together);
}

TEST_F(CpuAdamW, OnePassHasTheBitsOfSeparatePasses) {
  for (const bool is_decoupled : {true, false})
    for (const float weight : {0.01F, 0.6F, 1.0F}) {
      const cpu::AdamWGroup one_pass = random_group(odd_sizes(), is_decoupled, 0.1);
      cpu::AdamWGroup separate = cloned_group(one_pass);
      const TensorList averages = std::exchange(separate.averages, {});
      for (int step = 0; step < 3; ++step) {
        cpu::run_adamw({one_pass}, 0.3F, weight, /*is_skipped=*/false);
        cpu::AdamWGroup clipped = separate;
        clipped.grads = cloned_list(separate.grads);
        at::_foreach_mul_(clipped.grads, at::scalar_tensor(0.3F));
        cpu::run_adamw({clipped}, 1.0F, 0.0F, /*is_skipped=*/false);
        cpu::run_average(separate.params, averages, weight);
      }
      separate.averages = averages;
      expect_equal_groups(one_pass, separate);
    }
}

TEST_F(CpuAdamW, AverageMatchesLerp) {
  for (const double weight : {0.0, 1e-4, 0.3, 0.5, 0.7, 1.0}) {
    const cpu::AdamWGroup own = random_group(odd_sizes(), true, 0);
    const TensorList expected = cloned_list(own.averages);
    cpu::run_average(own.params, own.averages, static_cast<float>(weight));
    at::_foreach_lerp_(expected, own.params, weight);
    // LibTorch rounds the last elements of a tensor in another way than the others.
    for (std::size_t i = 0; i < expected.size(); ++i)
      expect_close(own.averages[i], expected[i], 1.2e-7, "average");
  }
}

TEST_F(CpuAdamW, ASkippedStepMovesTheAveragesAlone) {
  const cpu::AdamWGroup start = random_group({5, 33, 20000}, true, 0.1);
  start.grads[1].fill_(std::numeric_limits<double>::quiet_NaN());
  const cpu::AdamWGroup stepped = cloned_group(start);
  cpu::run_adamw({stepped}, std::numeric_limits<float>::quiet_NaN(), 0.25F, /*is_skipped=*/true);
  cpu::AdamWGroup expected = cloned_group(start);
  cpu::run_average(expected.params, expected.averages, 0.25F);
  expect_equal_groups(stepped, expected);
}

TEST_F(CpuAdamW, GroupsHaveTheirOwnOptions) {
  cpu::AdamWGroup first = random_group({7, 40}, true, 0.1);
  cpu::AdamWGroup second = random_group({3, 50000}, true, 0.0);
  second.learning_rate = 0.3;
  second.averages.clear();
  const cpu::AdamWGroup first_alone = cloned_group(first);
  const cpu::AdamWGroup second_alone = cloned_group(second);
  cpu::run_adamw({first, second}, 1.0F, 0.1F, /*is_skipped=*/false);
  cpu::run_adamw({first_alone}, 1.0F, 0.1F, /*is_skipped=*/false);
  cpu::run_adamw({second_alone}, 1.0F, 0.1F, /*is_skipped=*/false);
  expect_equal_groups(first, first_alone);
  expect_equal_groups(second, second_alone);
}

TEST_F(CpuAdamW, WritesCountAsVersions) {
  const cpu::AdamWGroup group = random_group({4}, true, 0);
  const auto before = group.params[0]._version();
  cpu::run_adamw({group}, 1.0F, 0.1F, /*is_skipped=*/false);
  EXPECT_EQ(group.params[0]._version(), before + 1);
}

TEST_F(CpuAdamW, FitsDenseFloat32OfOneOrder) {
  const cpu::AdamWGroup group = random_group({12, 6}, true, 0);
  EXPECT_TRUE(cpu::fits_adamw(group));
  const auto with_grad = [&](const at::Tensor& param, const at::Tensor& grad) {
    cpu::AdamWGroup other = group;
    other.params[1] = param;
    other.grads[1] = grad;
    other.exp_avgs[1] = at::zeros_like(param);
    other.exp_avg_sqs[1] = at::zeros_like(param);
    return cpu::fits_adamw(other);
  };
  const at::Tensor image = normal({2, 3, 4, 5});
  const at::Tensor channels_last = image.contiguous(at::MemoryFormat::ChannelsLast);
  EXPECT_TRUE(with_grad(image, image.clone()));
  EXPECT_TRUE(with_grad(channels_last, channels_last.clone()));
  EXPECT_FALSE(with_grad(channels_last, image));
  EXPECT_FALSE(with_grad(image, image.to(at::kDouble)));
  EXPECT_FALSE(with_grad(image.to(at::kDouble), image.to(at::kDouble)));
  EXPECT_FALSE(with_grad(normal({8}).slice(0, 0, 8, 2), normal({8}).slice(0, 0, 8, 2)));
  EXPECT_FALSE(with_grad(normal({4}), normal({2})));
  const FusedCpu off(false);
  EXPECT_FALSE(cpu::fits_adamw(group));
}

}  // namespace
}  // namespace diffusers

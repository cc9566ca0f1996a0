#include <array>
#include <cmath>
#include <vector>

#include <diffusers/core/random.h>

#include <torch/autograd.h>

#include "ops/cpu/kernels.h"
#include "ops/support.h"

namespace diffusers {
namespace {

using testing::expect_close;
using testing::leaf;
using testing::normal;

using AttentionForward = decltype(&cpu::avx2::attention_forward);
using AttentionBackward = decltype(&cpu::avx2::attention_backward);
using AttentionScratch = decltype(&cpu::avx2::attention_scratch);

struct AttentionSet {
  const char* name;
  AttentionForward forward;
  AttentionBackward backward;
  AttentionScratch scratch;
};

std::vector<AttentionSet> attention_sets() {
  std::vector<AttentionSet> sets;
  if (cpu::kernels_available())
    sets.push_back(
        {"AVX2", cpu::avx2::attention_forward, cpu::avx2::attention_backward, cpu::avx2::attention_scratch});
  if (cpu::avx512_available())
    sets.push_back({"AVX-512", cpu::avx512::attention_forward, cpu::avx512::attention_backward,
                    cpu::avx512::attention_scratch});
  return sets;
}

/// [heads, rows, depth] of one image.
cpu::HeadsView<const float> const_heads(const at::Tensor& heads) {
  return {heads.const_data_ptr<float>(), heads.numel(), heads.stride(0), heads.stride(1)};
}
cpu::HeadsView<float> heads_of(const at::Tensor& heads) {
  return {heads.mutable_data_ptr<float>(), heads.numel(), heads.stride(0), heads.stride(1)};
}

TEST(AttentionKernel, MatchesFloat64) {
  manual_seed(9);
  // Queries that fill no block, keys of several steps, and all paddings of the depth.
  const std::vector<std::array<int64_t, 4>> cases{{1, 1, 1, 1},    {2, 17, 3, 5},    {1, 40, 130, 8},
                                                  {3, 33, 257, 7}, {2, 16, 300, 12}, {1, 50, 129, 16},
                                                  {2, 9, 150, 24}, {1, 31, 64, 32}};
  if (attention_sets().empty()) GTEST_SKIP() << "this machine has no AVX2";
  for (const auto& [heads, queries, keys, depth] : cases) {
    const at::Tensor query = normal({heads, queries, depth}) * 3;
    const at::Tensor key = normal({heads, keys, depth});
    const at::Tensor value = normal({heads, keys, depth});
    const at::Tensor grad = normal({heads, queries, depth});
    const double scale = 1 / std::sqrt(static_cast<double>(depth));
    const std::vector<at::Tensor> exact{leaf(query, at::kDouble), leaf(key, at::kDouble),
                                        leaf(value, at::kDouble)};
    const at::Tensor scores = at::matmul(exact[0], exact[1].transpose(1, 2)) * scale;
    const at::Tensor expected = at::matmul(at::softmax(scores, 2), exact[2]);
    const auto gradients = torch::autograd::grad({expected}, exact, {grad.to(at::kDouble)});
    for (const AttentionSet& set : attention_sets()) {
      SCOPED_TRACE(::testing::Message() << set.name << ": " << heads << " heads of " << depth << ", "
                                        << queries << " queries, " << keys << " keys");
      const cpu::AttentionShape shape{.heads = heads,
                                      .queries = queries,
                                      .keys = keys,
                                      .depth = depth,
                                      .scale = static_cast<float>(scale)};
      const at::Tensor scratch = at::empty({set.scratch(shape)});
      const at::Tensor output = at::empty_like(query);
      const at::Tensor log_sum = at::empty({heads, queries});
      const at::Tensor grad_query = at::empty_like(query);
      const at::Tensor grad_key = at::empty_like(key);
      const at::Tensor grad_value = at::empty_like(value);
      const cpu::AttentionInputs inputs{const_heads(query), const_heads(key), const_heads(value)};
      set.forward(shape, inputs, heads_of(output), log_sum.mutable_data_ptr<float>(),
                  scratch.mutable_data_ptr<float>(), 0, heads);
      set.backward(shape, inputs, const_heads(output), const_heads(grad), log_sum.const_data_ptr<float>(),
                   {heads_of(grad_query), heads_of(grad_key), heads_of(grad_value)},
                   scratch.mutable_data_ptr<float>(), 0, heads);
      expect_close(output, expected, 2e-6, "output");
      expect_close(log_sum, at::logsumexp(scores, {2}) / std::log(2.0), 2e-6, "log of the sums");
      expect_close(grad_query, gradients[0], 1e-5, "gradient of the query");
      expect_close(grad_key, gradients[1], 1e-5, "gradient of the key");
      expect_close(grad_value, gradients[2], 1e-5, "gradient of the value");
    }
  }
}

}  // namespace
}  // namespace diffusers

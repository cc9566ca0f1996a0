// Gradient clipping and loss scaling against torch.

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <diffusers/training/optimizer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/json.h"
#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_close;

Tensor leaf(const Tensor& value) { return value.clone().requires_grad_(); }

TEST(ClipGradNorm, MatchesTorch) {
  const test::Golden golden = test::load_golden("training_optimizer.safetensors");
  const Json clips = parse_json(golden.metadata.at("cases"), "cases").at("clips");
  for (std::size_t number = 0; number < clips.size(); ++number) {
    const Json& norm_type = clips.at(number).at("norm_type");
    Tensor a = leaf(golden["start.a"]);
    Tensor b = leaf(golden["start.b"]);
    a.mutable_grad() = golden["grads.a"][0].clone();
    b.mutable_grad() = golden["grads.b"][0].clone();
    const Tensor norm = clip_grad_norm_(
        {a, b, leaf(at::ones({2}))}, clips.at(number).at("max_norm").get<double>(),
        norm_type.is_string() ? std::numeric_limits<double>::infinity() : norm_type.get<double>());
    const std::string prefix = "clip." + std::to_string(number) + ".";
    expect_close(norm, golden[prefix + "norm"], 1e-6, 0);
    expect_close(a.grad(), golden[prefix + "a"], 1e-6, 1e-7);
    expect_close(b.grad(), golden[prefix + "b"], 1e-6, 1e-7);
  }
}

TEST(GradScaler, SkipsAndGrowsAsTorchs) {
  const test::Golden golden = test::load_golden("training_optimizer.safetensors");
  Tensor a = leaf(at::ones({3}));
  Optimizer optimizer(std::vector<Tensor>{a}, {.type = OptimizerType::kSGD, .lr = 0.1, .weight_decay = 0.0});
  GradScaler scaler(at::kCPU, {.init_scale = 1024.0, .growth_interval = 3});
  for (int64_t step = 0; step < 14; ++step) {
    optimizer.zero_grad();
    const bool overflows = step == 2 || step == 9;
    scaler.scale((a * at::tensor({1.0F, 2.0F, overflows ? HUGE_VALF : 3.0F})).sum()).backward();
    const Tensor found_inf = scaler.unscale_({a});
    optimizer.step(1.0, found_inf);
    scaler.update(found_inf);
    EXPECT_EQ(scaler.get_scale().item<double>(), golden["scaler.scale"][step].item<double>())
        << "step " << step;
    expect_close(a.detach(), golden["scaler.parameter"][step], 1e-6, 1e-6);
  }
}

}  // namespace
}  // namespace diffusers

#include "models/unet/captured_denoiser.h"

#include <memory>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers {
namespace {

/// Counts replays, each of which calls the captured function once more.
class CallingBackend : public GraphBackend {
 public:
  explicit CallingBackend(std::shared_ptr<int> replays) : replays_(std::move(replays)) {}
  std::string run_and_observe(const std::function<void()>& body) override {
    body();
    return {};
  }
  void capture(const std::function<void()>& body, const std::vector<Generator>& /*generators*/) override {
    body_ = body;
    body_();
  }
  void replay() override {
    ++*replays_;
    body_();
  }

 private:
  std::shared_ptr<int> replays_;
  std::function<void()> body_;
};

struct DenoiserUnderTest {
  std::shared_ptr<int> replays = std::make_shared<int>(0);
  Tensor memory = at::empty({2, 3});
  Denoiser captured = captured_denoiser(
      [this](const Tensor& sample, const Tensor& t, const Conditioning& given) {
        const Tensor labels = given.class_labels.defined() ? given.class_labels.unsqueeze(1) : at::zeros({1});
        return memory.copy_(sample * t + labels);
      },
      [](const Tensor& sample) { return sample.size(0) == 2; },
      [this] { return std::make_unique<CallingBackend>(replays); });

  Tensor operator()(double value, const Conditioning& given = {}, int64_t rows = 2) const {
    return captured(at::full({rows, 3}, value), at::full({}, 10.0), given);
  }
};

TEST(CapturedDenoiser, ReplaysWithTheInputsOfTheCall) {
  const at::NoGradGuard no_grad;
  const DenoiserUnderTest denoise;
  std::vector<Tensor> outputs;
  for (int i = 0; i < 5; ++i) outputs.push_back(denoise(i, {.class_labels = at::tensor({i, 2 * i})}));
  EXPECT_EQ(*denoise.replays, 3);
  // A later replay leaves earlier results as they are.
  for (int i = 2; i < 5; ++i)
    test::expect_equal(outputs[static_cast<std::size_t>(i)],
                       at::stack({at::full({3}, 11.0 * i), at::full({3}, 12.0 * i)}));
}

TEST(CapturedDenoiser, PassesOnWhatItCannotCapture) {
  const DenoiserUnderTest denoise;
  for (int i = 0; i < 4; ++i) denoise(i);  // with gradients
  const at::NoGradGuard no_grad;
  for (int i = 0; i < 4; ++i) denoise(i, {.mid_block_additional_residual = at::ones({2, 1})});
  EXPECT_EQ(*denoise.replays, 0);
}

}  // namespace
}  // namespace diffusers

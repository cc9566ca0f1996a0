#include <cmath>

#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/schedulers/ddpm_scheduler.h>

#include "support.h"

namespace diffusers::test {
namespace {

const Golden& golden() {
  static const Golden golden = load_golden("schedulers.safetensors");
  return golden;
}

TEST(BetaSchedule, BetasAndProductsAreThoseOfDiffusersBitForBit) {
  const Json cases = parse_json(golden().metadata.at("betas"), "betas");
  for (std::size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE(cases[i].dump());
    const DDPMScheduler scheduler = DDPMScheduler::from_config(cases[i].dump());
    const std::string key = "betas/" + std::to_string(i);
    expect_equal(scheduler.betas(), golden()[key], "betas");
    expect_equal(scheduler.alphas_cumprod(), golden()[key + "/alphas_cumprod"], "alphas_cumprod");
  }
}

TEST(BetaSchedule, ZeroTerminalSnrEndsInPureNoise) {
  const DDPMScheduler scheduler({.rescale_betas_zero_snr = true});
  EXPECT_EQ(scheduler.alphas_cumprod()[-1].item<float>(), 0.0f);
  EXPECT_EQ(scheduler.betas()[-1].item<float>(), 1.0f);
}

TEST(BetaSchedule, ImpossibleSettingsAreRefusedByName) {
  const double nan = std::nan("");
  expect_throws_with<ConfigError>([&] { DDPMScheduler({.beta_start = nan}); }, "beta_start is nan");
  expect_throws_with<ConfigError>([] { DDPMScheduler({.beta_end = 1.5}); }, "beta_end is 1.5");
  expect_throws_with<ConfigError>([] { DDPMScheduler({.beta_start = -0.1}); }, "beta_start is -0.1");
  expect_throws_with<ConfigError>([] { DDPMScheduler({.num_train_timesteps = 0}); },
                                  "num_train_timesteps is 0");
  expect_throws_with<ConfigError>([] { DDIMScheduler({.num_train_timesteps = -5}); },
                                  "num_train_timesteps is -5");
  expect_throws_with<ConfigError>([] { DDIMScheduler({.num_train_timesteps = int64_t{1} << 60}); },
                                  "num_train_timesteps");
  expect_throws_with<ConfigError>(
      [] {
        DDPMScheduler({.trained_betas = {0.1, 0.2}});
      },
      "trained_betas holds 2");
  expect_throws_with<ConfigError>(
      [&] {
        DDPMScheduler({.num_train_timesteps = 2, .trained_betas = {0.1, nan}});
      },
      "trained_betas");
  expect_throws_with<ConfigError>(
      [] { DDPMScheduler({.num_train_timesteps = 1, .rescale_betas_zero_snr = true}); },
      "rescale_betas_zero_snr");
  EXPECT_THROW(rescale_zero_terminal_snr({}), TensorError);
}

TEST(TimestepSchedule, SpacingsAreThoseOfDiffusers) {
  const Json cases = parse_json(golden().metadata.at("timesteps"), "timesteps");
  for (std::size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE(cases[i].dump());
    Json config = cases[i];
    config.erase("n");
    DDIMScheduler ddim = DDIMScheduler::from_config(config.dump());
    DDPMScheduler ddpm = DDPMScheduler::from_config(config.dump());
    ddim.set_timesteps(cases[i]["n"].get<int64_t>());
    ddpm.set_timesteps(cases[i]["n"].get<int64_t>());
    expect_equal(ddim.timesteps(), golden()["timesteps/" + std::to_string(i)]);
    expect_equal(ddpm.timesteps(), ddim.timesteps());
  }
}

TEST(TimestepSchedule, TimestepsIterateAsZeroDimensionalTensors) {
  DDIMScheduler scheduler;
  EXPECT_EQ(scheduler.timesteps().size(0), 1000);
  scheduler.set_timesteps(4);
  std::vector<int64_t> seen;
  for (auto t : scheduler.timesteps()) {
    EXPECT_EQ(t.dim(), 0);
    seen.push_back(t.item<int64_t>());
  }
  EXPECT_EQ(seen, (std::vector<int64_t>{750, 500, 250, 0}));
}

TEST(NoiseSchedule, AddNoiseAndGetVelocityMatchDiffusersPerSample) {
  const Tensor timesteps = at::tensor({0, 17, 501, 999}, at::kLong);
  const Tensor x = seeded(1, {4, 3, 2, 2});
  const Tensor e = seeded(2, {4, 3, 2, 2});
  const DDPMScheduler ddpm;
  const DDIMScheduler ddim;
  for (const auto dtype : {at::kFloat, at::kHalf, at::kBFloat16, at::kDouble}) {
    const std::string name = dtype_name(dtype);
    SCOPED_TRACE(name);
    expect_equal(ddpm.add_noise(x.to(dtype), e.to(dtype), timesteps), golden()["add_noise/" + name]);
    expect_equal(ddim.add_noise(x.to(dtype), e.to(dtype), timesteps.to(at::kInt)),
                 golden()["add_noise/" + name]);
    expect_equal(ddpm.get_velocity(x.to(dtype), e.to(dtype), timesteps), golden()["get_velocity/" + name]);
  }
  expect_equal(ddim.add_noise(x, e, at::tensor({250}, at::kLong)), golden()["add_noise/one_timestep"]);
  expect_equal(ddim.add_noise(x, e, at::scalar_tensor(250, at::kLong)), golden()["add_noise/one_timestep"]);
}

TEST(NoiseSchedule, WrongTensorsAreRefusedByName) {
  const DDPMScheduler scheduler;
  const Tensor x = at::zeros({2, 3, 4, 4});
  const Tensor t = at::zeros({2}, at::kLong);
  expect_throws_with<TensorError>([&] { scheduler.add_noise(x, x, {}); },
                                  "timesteps are an undefined tensor");
  expect_throws_with<TensorError>([&] { scheduler.add_noise(x, x, t.to(at::kFloat)); }, "integral");
  expect_throws_with<TensorError>([&] { scheduler.add_noise(x, x, at::zeros({3}, at::kLong)); },
                                  "one for each of the 2 samples");
  expect_throws_with<TensorError>([&] { scheduler.add_noise(x, x, t + 1000); }, "expected 0 to 999");
  expect_throws_with<TensorError>([&] { scheduler.add_noise(x, x, t - 1); }, "expected 0 to 999");
  expect_throws_with<TensorError>(
      [&] {
        scheduler.add_noise(x, at::zeros({2, 3, 4, 5}), t);
      },
      "[2, 3, 4, 5]");
  expect_throws_with<TensorError>([&] { scheduler.add_noise(x, x.to(at::kHalf), t); }, "float16");
  expect_throws_with<TensorError>([&] { scheduler.add_noise({}, x, t); }, "undefined");
  expect_throws_with<TensorError>([&] { scheduler.get_velocity(x.to(at::kLong), x, t); }, "int64");
  EXPECT_EQ(scheduler.add_noise(at::zeros({0, 3}), at::zeros({0, 3}), at::zeros({0}, at::kLong)).size(0), 0);
}

}  // namespace
}  // namespace diffusers::test

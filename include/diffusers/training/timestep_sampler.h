#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/enum_names.h>
#include <diffusers/core/random.h>
#include <diffusers/core/tensor.h>
#include <diffusers/core/tensor_map.h>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// How the timesteps of a step's samples are drawn.
///
/// | name                 | draws                                                                          |
/// |----------------------|--------------------------------------------------------------------------------|
/// | `uniform`            | each for itself: `torch.randint(0, T, (count,))`                               |
/// | `stratified`         | one from each of `count` equal parts of [0, T), in random order                |
/// | `antithetic`         | t for half of them, T - 1 - t for the others                                   |
/// | `logit_normal`       | floor(u T) with u the sigmoid of a normal number (Esser et al. 2024)           |
/// | `mode`               | floor(u T) with more of the middle, by `mode_scale` (Esser et al. 2024)        |
/// | `loss_second_moment` | in proportion to the root mean square of the last ten losses of a t, each      |
/// |                      | weighted by 1 / (T p_t) (Nichol and Dhariwal 2021, section 3.3)                |
enum class TimestepSampling { kUniform, kStratified, kAntithetic, kLogitNormal, kMode, kLossSecondMoment };

/// Which timesteps are drawn more often (diffusers' train_text_to_image_sdxl.py).
enum class TimestepBias { kNone, kEarlier, kLater, kRange };

template <>
struct EnumNames<TimestepSampling> {
  static constexpr std::string_view kKey = "timestep_sampling";
  static constexpr std::array<std::pair<TimestepSampling, std::string_view>, 6> kTable{{
      {TimestepSampling::kUniform, "uniform"},
      {TimestepSampling::kStratified, "stratified"},
      {TimestepSampling::kAntithetic, "antithetic"},
      {TimestepSampling::kLogitNormal, "logit_normal"},
      {TimestepSampling::kMode, "mode"},
      {TimestepSampling::kLossSecondMoment, "loss_second_moment"},
  }};
};

template <>
struct EnumNames<TimestepBias> {
  static constexpr std::string_view kKey = "timestep_bias_strategy";
  static constexpr std::array<std::pair<TimestepBias, std::string_view>, 4> kTable{{
      {TimestepBias::kNone, "none"},
      {TimestepBias::kEarlier, "earlier"},
      {TimestepBias::kLater, "later"},
      {TimestepBias::kRange, "range"},
  }};
};

struct TimestepSamplingOptions {
  EnumChoice<TimestepSampling> strategy = TimestepSampling::kUniform;
  double logit_mean = 0.0;   ///< of `logit_normal`
  double logit_std = 1.0;    ///< of `logit_normal`
  double mode_scale = 1.29;  ///< of `mode`
  /// With `uniform`: the weight of a region is multiplied. `earlier` and `later` are the first and the last
  /// `bias_portion` of the timesteps, `range` those from `bias_begin` up to `bias_end`, not included.
  EnumChoice<TimestepBias> bias = TimestepBias::kNone;
  double bias_multiplier = 1.0;
  int64_t bias_begin = 0;
  int64_t bias_end = 1000;
  double bias_portion = 0.25;
  /// u T itself instead of floor(u T), for `uniform`, `stratified`, `logit_normal` and `mode`.
  bool continuous = false;
};

/// Draws training timesteps, and learns from the losses where its strategy does. Nothing is read from a
/// device.
class TimestepSampler {
 public:
  struct Draw {
    Tensor timesteps;  ///< `[count]`, int64 in [0, T), or float32 in [0, T) if continuous
    Tensor weights;    ///< `[count]` float32, what the losses are multiplied with; undefined: all 1
  };

  /// @throws ConfigError naming the option and its value
  explicit TimestepSampler(int64_t num_train_timesteps, const TimestepSamplingOptions& options = {});

  Draw sample(int64_t count, const std::optional<Generator>& generator = std::nullopt,
              at::Device device = at::kCPU);
  /// Tells `loss_second_moment` what the losses were, without importance weights; the others ignore it.
  /// @param timesteps `[B]` int64 as drawn; losses `[B]`
  void update(const Tensor& timesteps, const Tensor& losses);
  /// The weight of each timestep in a draw, float64 `[T]`, summing up to 1.
  Tensor probabilities() const;

  const TimestepSamplingOptions& options() const { return options_; }
  /// What has been learned; empty for strategies that do not.
  TensorMap state_dict() const;
  /// @throws TensorError naming what is missing or of another shape
  void load_state_dict(const TensorMap& state);

 private:
  Tensor uniform_numbers(int64_t count, const std::optional<Generator>& generator, at::Device device) const;
  bool is_adaptive() const { return options_.strategy == TimestepSampling::kLossSecondMoment; }

  int64_t num_train_timesteps_;
  TimestepSamplingOptions options_;
  Tensor bias_weights_;  // float32 [T], undefined without a bias
  Tensor history_;       // float32 [T, 10]: the last losses of each t
  Tensor seen_;          // int64 [T]: how many there were
};

}  // namespace diffusers

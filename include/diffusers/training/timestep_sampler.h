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

/// Distribution of the timesteps of a step. T is the number of training timesteps, and `count` the number of
/// samples of the step.
///
/// | name                 | timesteps                                                                      |
/// |----------------------|--------------------------------------------------------------------------------|
/// | `uniform`            | independent and uniform: `torch.randint(0, T, (count,))`                       |
/// | `stratified`         | one from each of `count` equal parts of [0, T), in random order                |
/// | `antithetic`         | t for one half of the samples, T - 1 - t for the other half                    |
/// | `logit_normal`       | floor(u T), where u is the sigmoid of a normal number (Esser et al. 2024)      |
/// | `mode`               | floor(u T), where u has the density of SD3's mode sampling (Esser et al. 2024) |
/// | `loss_second_moment` | probability p_t proportional to the RMS of the last ten losses of t            |
/// | `cubic`              | floor((1 - u^3) T), where u is uniform in [0, 1) (Mou et al. 2023)             |
///
/// `loss_second_moment` multiplies each loss by 1 / (T p_t) (Nichol and Dhariwal 2021, section 3.3).
enum class TimestepSampling {
  kUniform,
  kStratified,
  kAntithetic,
  kLogitNormal,
  kMode,
  kLossSecondMoment,
  kCubic
};

/// Selects timesteps that are drawn more often (`--timestep_bias_strategy` of diffusers'
/// `train_text_to_image_sdxl.py`).
///
/// | name      | timesteps whose weight is multiplied                  |
/// |-----------|-------------------------------------------------------|
/// | `none`    | none                                                  |
/// | `earlier` | the first `bias_portion` of the timesteps             |
/// | `later`   | the last `bias_portion` of the timesteps              |
/// | `range`   | `bias_begin` to `bias_end`, without `bias_end`        |
enum class TimestepBias { kNone, kEarlier, kLater, kRange };

/// The Python strings of `TimestepSampling`.
template <>
struct EnumNames<TimestepSampling> {
  static constexpr std::string_view kKey = "timestep_sampling";
  static constexpr std::array<std::pair<TimestepSampling, std::string_view>, 7> kTable{{
      {TimestepSampling::kUniform, "uniform"},
      {TimestepSampling::kStratified, "stratified"},
      {TimestepSampling::kAntithetic, "antithetic"},
      {TimestepSampling::kLogitNormal, "logit_normal"},
      {TimestepSampling::kMode, "mode"},
      {TimestepSampling::kLossSecondMoment, "loss_second_moment"},
      {TimestepSampling::kCubic, "cubic"},
  }};
};

/// The Python strings of `TimestepBias`.
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

/// Options of a TimestepSampler. Its constructor throws ConfigError for an option that was changed from its
/// default and has no effect, such as `mode_scale` without the strategy `mode`. Error messages use the names
/// of the training flags:
///
/// | field                                                             | flag                              |
/// |-------------------------------------------------------------------|-----------------------------------|
/// | `strategy`                                                        | `timestep_sampling`               |
/// | `bias`                                                            | `timestep_bias_strategy`          |
/// | `bias_multiplier`, `bias_begin`, `bias_end`, `bias_portion`       | the same after `timestep_`        |
/// | `continuous`                                                      | `continuous_timesteps`            |
struct TimestepSamplingOptions {
  /// Distribution of the timesteps.
  EnumChoice<TimestepSampling> strategy = TimestepSampling::kUniform;
  /// Mean of the normal number, finite. Only for `logit_normal`.
  double logit_mean = 0.0;
  /// Standard deviation of the normal number, above 0. Only for `logit_normal`.
  double logit_std = 1.0;
  /// Concentration, -1 to 2 / (pi - 2). 0 is uniform; above 0 favours the middle. Only for `mode`.
  double mode_scale = 1.29;
  /// Timesteps that are drawn more often. Only for `uniform` with discrete timesteps.
  EnumChoice<TimestepBias> bias = TimestepBias::kNone;
  /// Factor on the weight of the selected timesteps, above 0. Only with a `bias`.
  double bias_multiplier = 1.0;
  /// First timestep of the bias, 0 or more. Only for `range`.
  int64_t bias_begin = 0;
  /// End of the bias, not included, above `bias_begin` and at most T. Only for `range`.
  int64_t bias_end = 1000;
  /// Share of the timesteps that the bias selects, 0 to 1. Only for `earlier` and `later`.
  double bias_portion = 0.25;
  /// True draws the float u T instead of floor(u T). `antithetic` and `loss_second_moment` refuse it.
  bool continuous = false;
};

/// Draws training timesteps. `loss_second_moment` also learns from the losses. No function waits for the
/// device.
class TimestepSampler {
 public:
  /// Timesteps of `count` samples, and the factors of their losses.
  struct Draw {
    Tensor timesteps = {};  ///< `[count]`, int64 in [0, T), or float32 in [0, T) if continuous
    Tensor weights = {};    ///< `[count]` float32, factors of the losses; undefined: all are 1
  };

  /// Creates a sampler.
  /// @param num_train_timesteps T, above 0
  /// @param options distribution of the timesteps
  /// @throws ConfigError naming the option and its value
  explicit TimestepSampler(int64_t num_train_timesteps, const TimestepSamplingOptions& options = {});

  /// Draws timesteps.
  /// @param count number of samples, 0 or more
  /// @param generator source of the random numbers, on `device`; none: the global one
  /// @param device device of the timesteps
  /// @return the timesteps and the weights of their losses
  Draw sample(int64_t count, const std::optional<Generator>& generator = std::nullopt,
              at::Device device = at::kCPU);
  /// Learns from the losses of drawn timesteps. It does nothing unless the strategy is `loss_second_moment`.
  /// @param timesteps `[B]` int64, as drawn
  /// @param losses `[B]` floating, not multiplied by the weights of the draw
  /// @throws TensorError if the shapes differ
  void update(const Tensor& timesteps, const Tensor& losses);
  /// Returns the probability of each timestep in the next draw.
  /// @return float64 `[T]`, with a sum of 1
  /// @throws ConfigError for `logit_normal`, `mode` and `cubic`, which have no table of probabilities
  Tensor probabilities() const;

  /// @return the options as given
  const TimestepSamplingOptions& options() const { return options_; }
  /// @return history of the losses; empty for strategies other than `loss_second_moment`
  TensorMap state_dict() const;
  /// Restores what `state_dict` returned.
  /// @param state tensors by name
  /// @throws TensorError naming a tensor that is missing, unknown, or of another shape
  void load_state_dict(const TensorMap& state);

 private:
  Tensor uniform_numbers(int64_t count, const std::optional<Generator>& generator, at::Device device) const;
  bool is_adaptive() const { return options_.strategy == TimestepSampling::kLossSecondMoment; }

  int64_t num_train_timesteps_;
  TimestepSamplingOptions options_;
  Tensor bias_weights_;  // float32 [T], undefined without a bias
  Tensor history_;       // float32 [T, 10]: the last losses of each t
  Tensor seen_;          // int64 [T]: number of losses of each t so far
};

}  // namespace diffusers

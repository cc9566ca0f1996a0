#pragma once

// The exact solution for normally distributed data, which no reference implementation can bias. For data from
// N(m, s^2) the ideal denoiser is known in closed form, and with it the exact solution of the probability
// flow: at every noise level a sample keeps z, its distance from the mean in standard deviations (Song et al.
// 2021, arXiv 2011.13456, section 4.3; Karras et al. 2022, arXiv 2206.00364, eq. 1).

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <diffusers/schedulers/scheduler.h>

#include <ATen/ATen.h>

namespace diffusers::test {

inline constexpr double kDataMean = 0.7;
inline constexpr double kDataDeviation = 0.6;

/// The relation of timesteps and noise levels.
enum class Family { kDiscrete, kEdm, kFlow, kIpndm, kConsistency };

/// x_t = alpha x_0 + sigma eps
struct Level {
  double alpha;
  double sigma;
  double deviation() const { return std::hypot(alpha * kDataDeviation, sigma); }
};

/// The ideal model of N(m, s^2) for a scheduler.
class Gaussian {
 public:
  Gaussian(const Scheduler& scheduler, Family family) : family_(family) {
    if (family != Family::kDiscrete) return;
    const Tensor abar = scheduler.alphas_cumprod().to(at::kDouble);
    const Tensor log_sigmas = 0.5 * ((1 - abar) / abar).log();
    log_sigmas_.assign(log_sigmas.const_data_ptr<double>(),
                       log_sigmas.const_data_ptr<double>() + log_sigmas.numel());
  }

  Level level(const Tensor& timestep) const {
    const double t = timestep.item().toDouble();
    switch (family_) {
      case Family::kEdm:
        return {1, std::exp(4 * t)};
      case Family::kConsistency:
        return {1, std::exp(t / 250)};
      case Family::kFlow:
        return {1 - t / 1000, t / 1000};
      case Family::kIpndm:
        return {std::cos(t * M_PI / 2), std::sin(t * M_PI / 2)};
      case Family::kDiscrete:
        break;
    }
    // Between training timesteps the levels are linear in log sigma, as in the schedulers.
    const auto low = std::min(static_cast<std::size_t>(t), log_sigmas_.size() - 2);
    const double weight = t - static_cast<double>(low);
    const double sigma = std::exp((1 - weight) * log_sigmas_[low] + weight * log_sigmas_[low + 1]);
    return {1 / std::hypot(1, sigma), sigma / std::hypot(1, sigma)};
  }

  /// Returns the model input in the coordinates of `level`. This reverses the scaling of EDM and of
  /// consistency models.
  Tensor unscaled(const Tensor& input, const Level& level) const {
    const bool scaled = family_ == Family::kEdm || family_ == Family::kConsistency;
    return scaled ? input * std::hypot(level.sigma, 0.5) : input;
  }

  static Tensor at_level(const Tensor& z, const Level& level) {
    return level.alpha * kDataMean + level.deviation() * z;
  }
  static Tensor z_of(const Tensor& x, const Level& level) {
    return (x - level.alpha * kDataMean) / level.deviation();
  }
  /// E[x_0 | x_t]
  static Tensor denoised(const Tensor& x, const Level& level) {
    const double gain =
        level.alpha * kDataDeviation * kDataDeviation / (level.deviation() * level.deviation());
    return kDataMean + gain * (x - level.alpha * kDataMean);
  }
  static Tensor epsilon(const Tensor& x, const Level& level) {
    return (x - level.alpha * denoised(x, level)) / level.sigma;
  }

  /// Returns the output of the ideal model.
  Tensor operator()(const Tensor& input, const Tensor& timestep) const {
    const Level at = level(timestep);
    const Tensor x = unscaled(input, at);
    const Tensor x0 = denoised(x, at);
    switch (family_) {
      case Family::kEdm: {  // epsilon preconditioning with sigma_data = 0.5
        const double total = std::hypot(at.sigma, 0.5);
        return (x0 - 0.25 / (total * total) * x) / (at.sigma * 0.5 / total);
      }
      case Family::kFlow:
        return epsilon(x, at) - x0;
      case Family::kIpndm:
        return at.alpha * epsilon(x, at) - at.sigma * x0;
      default:
        return epsilon(x, at);
    }
  }

 private:
  Family family_;
  std::vector<double> log_sigmas_;
};

}  // namespace diffusers::test

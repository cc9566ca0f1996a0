// Spacing of noise levels, and their fractional training timesteps, computed as NumPy does to the last bit.

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <numbers>

#include "schedulers/sigma_math.h"

namespace diffusers {
inline namespace internal {

std::vector<double> linspace(double start, double stop, int64_t count) {
  std::vector<double> values(static_cast<std::size_t>(std::max<int64_t>(count, 0)));
  const double step = count > 1 ? (stop - start) / static_cast<double>(count - 1) : 0.0;
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i) * step + start;
  if (count > 1) values.back() = stop;
  return values;
}

std::vector<double> interpolate(const std::vector<double>& positions, const std::vector<double>& values) {
  std::vector<double> result;
  result.reserve(positions.size());
  const auto last = static_cast<double>(values.size() - 1);
  for (const double position : positions) {
    if (!(position > 0)) {
      result.push_back(values.front());
    } else if (position >= last) {
      result.push_back(values.back());
    } else {
      const auto low = static_cast<std::size_t>(position);
      const double slope = values[low + 1] - values[low];
      result.push_back(slope * (position - static_cast<double>(low)) + values[low]);
    }
  }
  return result;
}

float numpy_log(float x) {
  if (!(x > 0) || !std::isfinite(x)) return std::log(x);
  int exponent = 0;
  float mantissa = std::frexp(x, &exponent);
  if (mantissa <= 0.70710678118654752440f) {
    mantissa += mantissa;
    --exponent;
  }
  const float y = mantissa - 1;
  const auto polynomial = [y](std::initializer_list<float> coefficients) {
    float sum = *coefficients.begin();
    for (const float* c = coefficients.begin() + 1; c != coefficients.end(); ++c) sum = std::fma(sum, y, *c);
    return sum;
  };
  const float numerator =
      polynomial({2.589979117907922693523e-02f, 3.808837741388407920751e-01f, 1.480000633576506585156e+00f,
                  2.112677543073053063722e+00f, 9.999999999999998702752e-01f, 0.0f});
  const float denominator =
      polynomial({5.875095403124574342950e-03f, 1.546476374983906719538e-01f, 9.864942958519418960339e-01f,
                  2.453006071784736363091e+00f, 2.612677543073109236779e+00f, 1.0f});
  return std::fma(static_cast<float>(exponent), std::numbers::ln2_v<float>, numerator / denominator);
}

namespace {

double logarithm(double x) { return std::log(x); }
float logarithm(float x) { return numpy_log(x); }

template <class Real, class Mean>
std::vector<double> timesteps_at(const std::vector<Real>& sigmas, const std::vector<double>& training) {
  // Python's table of logarithms is float32.
  std::vector<float> log_sigmas;
  for (const double sigma : training) log_sigmas.push_back(numpy_log(static_cast<float>(sigma)));
  std::vector<double> timesteps;
  for (const Real sigma : sigmas) {
    const Real log_sigma = logarithm(std::max(sigma, static_cast<Real>(1e-10)));
    std::size_t low = 0;
    for (std::size_t i = 0; i < log_sigmas.size(); ++i)
      if (log_sigma >= log_sigmas[i]) low = i;
    if (log_sigmas.size() < 2) {
      timesteps.push_back(0);
      continue;
    }
    low = std::min(low, log_sigmas.size() - 2);
    const Real weight = std::clamp<Real>(
        (log_sigmas[low] - log_sigma) / static_cast<Real>(log_sigmas[low] - log_sigmas[low + 1]), 0, 1);
    timesteps.push_back(static_cast<Mean>(1 - weight) * static_cast<Mean>(low) +
                        static_cast<Mean>(weight) * static_cast<Mean>(low + 1));
  }
  return timesteps;
}

}  // namespace

std::vector<double> sigmas_to_timesteps(const std::vector<double>& sigmas,
                                        const std::vector<double>& training) {
  return timesteps_at<double, double>(sigmas, training);
}

std::vector<double> sigmas_to_timesteps(const std::vector<float>& sigmas, const std::vector<double>& training,
                                        bool as_tensors) {
  return as_tensors ? timesteps_at<float, float>(sigmas, training)
                    : timesteps_at<float, double>(sigmas, training);
}

std::vector<double> karras_sigmas(double sigma_min, double sigma_max, int64_t count, double rho) {
  std::vector<double> sigmas = linspace(0, 1, count);
  const double low = std::pow(sigma_min, 1 / rho);
  const double high = std::pow(sigma_max, 1 / rho);
  for (double& sigma : sigmas) sigma = std::pow(high + sigma * (low - high), rho);
  return sigmas;
}

std::vector<double> exponential_sigmas(double sigma_min, double sigma_max, int64_t count) {
  std::vector<double> sigmas = linspace(std::log(sigma_max), std::log(sigma_min), count);
  for (double& sigma : sigmas) sigma = std::exp(sigma);
  return sigmas;
}

namespace {

/// Computes the regularized incomplete beta function by its continued fraction (Abramowitz and Stegun 26.5.8,
/// Lentz's method). It converges fast for x < (a + 1) / (a + b + 2).
double incomplete_beta(double x, double a, double b) {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  if (x > (a + 1) / (a + b + 2)) return 1 - incomplete_beta(1 - x, b, a);
  const double front =
      std::exp(std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) + a * std::log(x) + b * std::log1p(-x)) /
      a;
  constexpr double kTiny = 1e-300;
  double c = 1;
  double d = 1 / std::max(1 - (a + b) * x / (a + 1), kTiny);
  double fraction = d;
  for (int m = 1; m < 500; ++m) {
    double before = fraction;
    for (const double term : {m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
                              -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))}) {
      d = 1 / (1 + term * d);
      c = 1 + term / c;
      fraction *= c * d;
    }
    if (std::abs(fraction - before) < 1e-16 * std::abs(fraction)) break;
  }
  return front * fraction;
}

}  // namespace

double beta_quantile(double p, double a, double b) {
  if (p <= 0) return 0;
  if (p >= 1) return 1;
  double low = 0;
  double high = 1;
  // Bisection is slow but accurate. A schedule has at most a few thousand levels.
  for (int i = 0; i < 200 && high - low > 0; ++i) {
    const double middle = 0.5 * (low + high);
    if (middle == low || middle == high) break;
    (incomplete_beta(middle, a, b) < p ? low : high) = middle;
  }
  return 0.5 * (low + high);
}

std::vector<double> beta_sigmas(double sigma_min, double sigma_max, int64_t count) {
  std::vector<double> sigmas = linspace(0, 1, count);
  for (double& sigma : sigmas)
    sigma = sigma_min + beta_quantile(1 - sigma, 0.6, 0.6) * (sigma_max - sigma_min);
  return sigmas;
}

double shifted_sigma(double sigma, double shift) { return shift * sigma / (1 + (shift - 1) * sigma); }

std::vector<double> spread_sigmas(SigmaSpread spread, const std::vector<double>& range, int64_t count,
                                  std::optional<double> sigma_min, std::optional<double> sigma_max) {
  const double low = sigma_min.value_or(range.back());
  const double high = sigma_max.value_or(range.front());
  switch (spread) {
    case SigmaSpread::kKarras:
      return karras_sigmas(low, high, count);
    case SigmaSpread::kExponential:
      return exponential_sigmas(low, high, count);
    case SigmaSpread::kBeta:
      return beta_sigmas(low, high, count);
    case SigmaSpread::kPlain:
      break;
  }
  return range;
}

}  // namespace internal
}  // namespace diffusers

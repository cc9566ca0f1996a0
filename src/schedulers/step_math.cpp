#include "schedulers/step_math.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include <diffusers/core/tensor.h>
#include <diffusers/schedulers/timestep_schedule.h>

#include <ATen/ATen.h>

#include "core/per_sample.h"
#include "core/require.h"

namespace diffusers {
namespace {

void refuse_option(bool given, bool known, std::string_view who, std::string_view option,
                   std::string_view call) {
  require<ConfigError>(known || !given, "{}: {} has no option {}", who, call, option);
}

}  // namespace

void internal::check_step_options(std::string_view who, const StepOptions& options,
                                  const StepFeatures& known) {
  refuse_option(options.eta.value_or(0.0) != 0.0, known.eta, who, "eta", "step");
  refuse_option(options.use_clipped_model_output, known.use_clipped_model_output, who,
                "use_clipped_model_output", "step");
  refuse_option(options.s_churn != 0.0, known.churn, who, "s_churn", "step");
  refuse_option(options.s_tmin != 0.0, known.churn, who, "s_tmin", "step");
  refuse_option(options.s_tmax != std::numeric_limits<double>::infinity(), known.churn, who, "s_tmax",
                "step");
  refuse_option(options.s_noise != 1.0, known.s_noise, who, "s_noise", "step");
  refuse_option(options.variance_noise.defined(), known.variance_noise, who, "variance_noise", "step");
  refuse_option(options.order.has_value(), known.order, who, "order", "step");
}

void internal::check_set_timesteps_options(std::string_view who, const SetTimestepsOptions& options,
                                           const SetTimestepsFeatures& known) {
  refuse_option(options.original_inference_steps.has_value(), known.original_inference_steps, who,
                "original_inference_steps", "set_timesteps");
  refuse_option(!options.sigmas.empty(), known.sigmas, who, "sigmas", "set_timesteps");
  refuse_option(options.mu.has_value(), known.mu, who, "mu", "set_timesteps");
  refuse_option(!options.timesteps.empty(), known.timesteps, who, "timesteps", "set_timesteps");
  refuse_option(options.strength.has_value(), known.strength, who, "strength", "set_timesteps");
  refuse_option(options.num_train_timesteps.has_value(), known.num_train_timesteps, who,
                "num_train_timesteps", "set_timesteps");
}

void internal::check_step_tensors(std::string_view who, const Tensor& model_output, const Tensor& sample,
                                  bool wide_output) {
  require<TensorError>(sample.defined() && sample.is_floating_point() && sample.dim() >= 1,
                       "{}: step: sample is {}, expected a floating tensor [B, ...]", who, describe(sample));
  require<TensorError>(model_output.defined() && model_output.is_floating_point(),
                       "{}: step: model_output is {}, expected a floating tensor", who,
                       describe(model_output));
  auto expected = sample.sizes().vec();
  if (wide_output && expected.size() >= 2) expected[1] *= 2;
  require<TensorError>(model_output.sizes() == expected && model_output.device() == sample.device(),
                       "{}: step: model_output is {}, expected {} for a sample of {}", who,
                       describe(model_output), shape_string(expected), describe(sample));
}

int64_t internal::checked_num_inference_steps(std::string_view who, std::optional<int64_t> n, int64_t limit) {
  require<ConfigError>(n.has_value(), "{}: set_timesteps needs num_inference_steps", who);
  require<ConfigError>(*n >= 1, "{}: num_inference_steps is {}, expected at least 1", who, *n);
  require<ConfigError>(limit < 1 || *n <= limit,
                       "{}: num_inference_steps is {}, expected at most num_train_timesteps = {}", who, *n,
                       limit);
  return *n;
}

void internal::require_noisable(const Tensor& original_samples, const Tensor& noise) {
  require<TensorError>(
      original_samples.defined() && original_samples.is_floating_point() && original_samples.dim() >= 1,
      "samples are {}, expected a floating tensor [B, ...]", describe(original_samples));
  require<TensorError>(noise.defined() && noise.sizes() == original_samples.sizes() &&
                           noise.scalar_type() == original_samples.scalar_type() &&
                           noise.device() == original_samples.device(),
                       "noise is {}, expected {} like the samples", describe(noise),
                       describe(original_samples));
}

Tensor internal::per_sample_timesteps(const Tensor& timesteps, const Tensor& sample, int64_t count) {
  require<TensorError>(
      timesteps.defined() && at::isIntegralType(timesteps.scalar_type(), /*includeBool=*/false),
      "timesteps are {}, expected an integral tensor [B]", describe(timesteps));
  require<TensorError>(timesteps.numel() == 1 || timesteps.numel() == sample.size(0),
                       "timesteps are {}, expected one for each of the {} samples", describe(timesteps),
                       sample.size(0));
  if (timesteps.is_cpu() && timesteps.numel() > 0) {
    const Tensor host = timesteps.to(at::kLong).contiguous();
    const int64_t* values = host.const_data_ptr<int64_t>();
    const auto [low, high] = std::minmax_element(values, values + host.numel());
    require<TensorError>(*low >= 0 && *high < count, "timesteps run from {} to {}, expected 0 to {}", *low,
                         *high, count - 1);
  }
  return timesteps.flatten().to(at::TensorOptions(sample.device()).dtype(at::kLong), /*non_blocking=*/true);
}

Tensor internal::per_sample(const Tensor& table, const Tensor& indices, int64_t dim) {
  return broadcast_per_sample(table.gather(0, indices), dim);
}

Tensor internal::step_noise(const StepOptions& options, const Tensor& model_output,
                            std::optional<at::ScalarType> dtype) {
  if (!options.variance_noise.defined())
    return randn_tensor(model_output.sizes(), options.generator, model_output.device(),
                        dtype.value_or(model_output.scalar_type()));
  require<ConfigError>(!options.generator, "step takes a generator or variance_noise, not both");
  require<TensorError>(options.variance_noise.sizes() == model_output.sizes() &&
                           options.variance_noise.device() == model_output.device(),
                       "variance_noise is {}, expected {} like the model output",
                       describe(options.variance_noise), describe(model_output));
  return dtype ? options.variance_noise.to(*dtype) : options.variance_noise;
}

float internal::torch_sqrt(float x) {
  return at::scalar_tensor(x, at::kFloat).sqrt().const_data_ptr<float>()[0];
}
float internal::torch_log(float x) {
  return at::scalar_tensor(x, at::kFloat).log().const_data_ptr<float>()[0];
}
float internal::torch_exp(float x) {
  return at::scalar_tensor(x, at::kFloat).exp().const_data_ptr<float>()[0];
}
float internal::torch_expm1(float x) {
  return at::scalar_tensor(x, at::kFloat).expm1().const_data_ptr<float>()[0];
}

Tensor internal::scaled_noise(double scale, const StepOptions& options, const Tensor& model_output,
                              std::optional<at::ScalarType> dtype) {
  const Tensor noise = step_noise(options, model_output, dtype);
  return options.variance_noise.defined() ? at::mul(noise, scale) : scaled_in_place(noise, scale);
}

Tensor internal::add_scaled(const Tensor& sum, double b, const Tensor& y) {
  // `Tensor::add_` with a factor rounds once, while Python's expressions round the product and the sum. A
  // factor of 1 or -1 makes no difference.
  const bool exact = b == 1 || b == -1;
  const Tensor term = exact ? y : at::mul(y, b);
  const double sign = exact ? b : 1;
  return at::result_type(sum, term) == sum.scalar_type() ? sum.add_(term, sign) : at::add(sum, term, sign);
}

Tensor internal::scaled_sum(const std::vector<ScaledTerm>& terms) {
  Tensor sum = at::mul(terms.front().x, terms.front().a);
  Tensor product;
  for (std::size_t i = 1; i < terms.size(); ++i) {
    const auto& [a, x] = terms[i];
    if (a == 1 || a == -1) {
      sum = add_scaled(sum, a, x);
      continue;
    }
    if (product.defined() && product.scalar_type() == x.scalar_type()) {
      at::mul_out(product, x, at::scalar_tensor(a, at::kDouble));
    } else {
      product = at::mul(x, a);
    }
    sum = add_scaled(sum, 1, product);
  }
  return sum;
}

Tensor internal::weighted_sum(double a, const Tensor& x, double b, const Tensor& y) {
  return add_scaled(at::mul(x, a), b, y);
}

Tensor internal::plus_scaled(const Tensor& x, double b, const Tensor& y) {
  return add_scaled(at::mul(y, b), 1, x);
}

Tensor internal::scaled_in_place(const Tensor& x, double a) {
  return x.mul_(at::scalar_tensor(a, at::kDouble));
}

Tensor internal::euler_step(const Tensor& from, const Tensor& x, const Tensor& x0, double sigma, double dt) {
  return add_scaled(scaled_in_place(at::sub(x, x0).div_(sigma), dt), 1, from);
}

Tensor internal::threshold_sample(const Tensor& sample, double ratio, double max_value) {
  const auto dtype = sample.scalar_type();
  const bool wide = dtype == at::kFloat || dtype == at::kDouble;
  const Tensor flat = (wide ? sample : sample.to(at::kFloat)).reshape({sample.size(0), -1});
  // Python clamps to [1, max_value] in this order, so a max_value below 1 has priority.
  const Tensor s = flat.abs().quantile(ratio, /*dim=*/1, /*keepdim=*/true).clamp(1, max_value);
  return (at::clamp(flat, -s, s) / s).reshape(sample.sizes()).to(dtype);
}

void internal::check_thresholding(std::string_view who, double ratio, double max_value) {
  require<ConfigError>(ratio >= 0 && ratio <= 1, "{}: dynamic_thresholding_ratio is {}, expected 0 to 1", who,
                       ratio);
  require<ConfigError>(max_value > 0, "{}: sample_max_value is {}, expected a positive number", who,
                       max_value);
}

std::vector<double> internal::training_timesteps(int64_t num_train_timesteps) {
  std::vector<double> timesteps(static_cast<std::size_t>(std::max<int64_t>(num_train_timesteps, 0)));
  for (std::size_t i = 0; i < timesteps.size(); ++i)
    timesteps[i] = static_cast<double>(timesteps.size() - 1 - i);
  return timesteps;
}

void internal::check_custom_timesteps(std::string_view who, const std::vector<double>& timesteps,
                                      int64_t num_train_timesteps) {
  for (std::size_t i = 0; i < timesteps.size(); ++i) {
    require<ConfigError>(
        timesteps[i] >= 0 && timesteps[i] < static_cast<double>(num_train_timesteps) &&
            std::nearbyint(timesteps[i]) == timesteps[i],
        "{}: timesteps holds {}, expected whole numbers from 0 to num_train_timesteps - 1 = {}", who,
        timesteps[i], num_train_timesteps - 1);
    require<ConfigError>(i == 0 || timesteps[i] < timesteps[i - 1],
                         "{}: timesteps must descend, but {} follows {}", who, timesteps[i],
                         i == 0 ? 0.0 : timesteps[i - 1]);
  }
}

void internal::check_prediction_type(std::string_view who, PredictionType type,
                                     std::initializer_list<PredictionType> known) {
  if (std::find(known.begin(), known.end(), type) != known.end()) return;
  std::vector<std::string_view> names;
  for (const auto each : known) names.push_back(enum_name(each));
  fail<ConfigError>("{}: prediction_type is \"{}\", expected one of: {}", who, enum_name(type),
                    fmt::join(names, ", "));
}

float internal::ddim_direction(std::string_view who, float alpha_bar_prev, float sigma, double eta) {
  const float squared = 1 - alpha_bar_prev - sigma * sigma;
  require<ConfigError>(
      squared >= 0 || eta <= 1,
      "{}: step: eta is {}, which asks for noise of standard deviation {}, expected at most {}", who, eta,
      sigma, torch_sqrt(1 - alpha_bar_prev));
  return torch_sqrt(std::max(squared, 0.0f));
}

void internal::require_signal(std::string_view who, float alpha_bar, int64_t t, bool clipped) {
  require<ConfigError>(alpha_bar > 0 || clipped,
                       "{}: step: prediction_type \"epsilon\" cannot start at timestep {}, where abar is 0 "
                       "(rescale_betas_zero_snr): x_0 would be infinite; train with \"v_prediction\"",
                       who, t);
}

float internal::signal_scale(float alpha_bar) {
  return std::max(torch_sqrt(alpha_bar), std::numeric_limits<float>::min());
}

std::vector<double> spaced_timesteps(TimestepSpacing spacing, int64_t num_train_timesteps,
                                     int64_t num_inference_steps, int64_t steps_offset, bool rounded) {
  // Unrounded timesteps may differ by less than one.
  const bool any_count = spacing == TimestepSpacing::kLinspace && !rounded;
  require<ConfigError>(num_train_timesteps >= 1 && num_inference_steps >= 1 &&
                           (any_count || num_inference_steps <= num_train_timesteps),
                       "num_inference_steps is {}, expected 1 to num_train_timesteps = {}",
                       num_inference_steps, num_train_timesteps);
  const auto n = static_cast<std::size_t>(num_inference_steps);
  const auto total = static_cast<double>(num_train_timesteps);
  std::vector<double> timesteps(n);
  switch (spacing) {
    case TimestepSpacing::kLinspace: {
      const double step = n > 1 ? (total - 1) / static_cast<double>(n - 1) : 0.0;
      for (std::size_t i = 0; i < n; ++i) timesteps[n - 1 - i] = static_cast<double>(i) * step;
      if (n > 1) timesteps[0] = total - 1;
      if (rounded)
        for (double& t : timesteps) t = std::nearbyint(t);
      break;
    }
    case TimestepSpacing::kLeading: {
      const int64_t ratio = num_train_timesteps / num_inference_steps;
      for (std::size_t i = 0; i < n; ++i)
        timesteps[n - 1 - i] = static_cast<double>(static_cast<int64_t>(i) * ratio + steps_offset);
      require<ConfigError>(!rounded || (timesteps.front() < total && timesteps.back() >= 0),
                           "steps_offset is {}, with which {} steps run from timestep {} to {}, expected "
                           "timesteps from 0 to {}",
                           steps_offset, num_inference_steps, timesteps.front(), timesteps.back(), total - 1);
      break;
    }
    case TimestepSpacing::kTrailing: {
      // numpy.arange(T, 0, -T / n) adds multiples of (T - T / n) - T. For some n rounding gives Python one
      // element more, the timestep -1. This function always returns n elements.
      const double delta = (total - total / static_cast<double>(n)) - total;
      for (std::size_t i = 0; i < n; ++i)
        timesteps[i] = std::nearbyint(total + static_cast<double>(i) * delta) - 1;
      break;
    }
  }
  return timesteps;
}

TimestepSchedule::TimestepSchedule(std::vector<double> values, at::ScalarType dtype, at::Device device)
    : values_(std::move(values)) {
  const Tensor host = at::tensor(values_, at::kDouble).to(dtype);
  const Tensor rounded = host.to(at::kDouble);
  std::copy_n(rounded.const_data_ptr<double>(), values_.size(), values_.begin());
  tensor_ = host.to(device);
}

std::optional<std::vector<int64_t>> TimestepSchedule::places_of(const Tensor& timesteps) const {
  if (!tensor_.defined() || !timesteps.defined() || timesteps.dim() > 1 ||
      timesteps.scalar_type() != tensor_.scalar_type() || !timesteps.is_alias_of(tensor_))
    return std::nullopt;
  const int64_t first = timesteps.storage_offset() - tensor_.storage_offset();
  const int64_t stride = timesteps.dim() == 1 ? timesteps.stride(0) : 0;
  std::vector<int64_t> places;
  for (int64_t i = 0; i < timesteps.numel(); ++i) {
    places.push_back(first + i * stride);
    if (places.back() < 0 || places.back() >= size()) return std::nullopt;
  }
  return places;
}

std::vector<double> TimestepSchedule::values_of(const Tensor& timesteps) const {
  if (const auto places = places_of(timesteps)) {
    std::vector<double> values;
    for (const int64_t place : *places) values.push_back((*this)[place]);
    return values;
  }
  const int64_t count = timesteps.numel();
  const Tensor host = timesteps.flatten().to(at::kCPU, at::kDouble).contiguous();
  return {host.const_data_ptr<double>(), host.const_data_ptr<double>() + count};
}

double TimestepSchedule::value_of(const Tensor& timestep, std::string_view where) const {
  require<TensorError>(timestep.defined() && timestep.numel() == 1,
                       "{}: timestep is {}, expected a single number", where, describe(timestep));
  return values_of(timestep).front();
}

int64_t TimestepSchedule::index_of_training_step(const Tensor& timestep, std::string_view where) const {
  const double value = value_of(timestep, where);
  require<TensorError>(std::nearbyint(value) == value && std::abs(value) < 1e15,
                       "{}: timestep is {}, expected a whole number", where, value);
  return static_cast<int64_t>(value);
}

int64_t TimestepSchedule::find(double value) const {
  const auto found = std::find(values_.begin(), values_.end(), value);
  return found == values_.end() ? -1 : found - values_.begin();
}

int64_t TimestepSchedule::following(int64_t timestep, std::string_view where) const {
  const int64_t index = find(static_cast<double>(timestep));
  require<TensorError>(index >= 0, "{}: timestep {} is none of timesteps()", where, timestep);
  return index + 1 < size() ? static_cast<int64_t>(values_[static_cast<std::size_t>(index + 1)]) : -1;
}

}  // namespace diffusers

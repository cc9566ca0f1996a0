#include <algorithm>
#include <cmath>
#include <string_view>

#include <diffusers/pipelines/sampling_loop.h>

#include <ATen/ATen.h>
#include <ATen/ExpandUtils.h>

#include "core/require.h"
#include "schedulers/prediction.h"

namespace diffusers {
namespace {

constexpr std::string_view kLoop = "sampling_loop";

Timesteps checked_timesteps(std::string_view where, const Scheduler& scheduler) {
  Timesteps timesteps = scheduler.timesteps();
  require(timesteps.defined() && timesteps.numel() > 0, "{}: {} has no timesteps; call set_timesteps", where,
          scheduler.class_name());
  return timesteps;
}

void require_sample(std::string_view where, std::string_view name, const Tensor& sample) {
  require<TensorError>(sample.defined() && sample.is_floating_point() && sample.dim() >= 1,
                       "{}: {} is {}, expected a floating tensor [B, ...]", where, name, describe(sample));
}

void check_loop_options(const Scheduler& scheduler, const Tensor& sample,
                        const SamplingLoopOptions& options) {
  require<ConfigError>(std::isfinite(options.temperature) && options.temperature >= 0,
                       "{}: temperature is {}, expected a finite number from 0", kLoop, options.temperature);
  require<ConfigError>(options.noise_dropout >= 0 && options.noise_dropout < 1,
                       "{}: noise_dropout is {}, expected 0 to 1, 1 excluded", kLoop, options.noise_dropout);
  require<ConfigError>(!options.score_corrector || scheduler.prediction_type() == PredictionType::kEpsilon,
                       "{}: score_corrector needs prediction_type \"epsilon\", found \"{}\"", kLoop,
                       scheduler.prediction_type_name());
  require<ConfigError>(options.mask.defined() == options.x0.defined(),
                       "{}: mask and x0 go together, {} is missing", kLoop,
                       options.mask.defined() ? "x0" : "mask");
  if (!options.mask.defined()) return;
  require<TensorError>(
      options.x0.sizes() == sample.sizes() && options.x0.scalar_type() == sample.scalar_type() &&
          options.x0.device() == sample.device(),
      "{}: x0 is {}, expected {} like the sample", kLoop, describe(options.x0), describe(sample));
  require<TensorError>(
      options.mask.device() == sample.device() && at::is_expandable_to(options.mask.sizes(), sample.sizes()),
      "{}: mask is {}, expected one that broadcasts to {}", kLoop, describe(options.mask), describe(sample));
}

/// Adds the noise of a timestep to x0, in the scheduler's own coordinates.
Tensor noised(const Scheduler& scheduler, const Tensor& x0, const Tensor& timestep,
              const std::optional<Generator>& generator) {
  const Tensor noise = randn_tensor(x0.sizes(), generator, x0.device(), x0.scalar_type());
  const Tensor timesteps = timestep.reshape({1});
  return scheduler.has_scale_noise() ? scheduler.scale_noise(x0, timesteps, noise)
                                     : scheduler.add_noise(x0, noise, timesteps);
}

/// Draws the noise of a step and applies temperature and noise_dropout.
Tensor tempered_noise(const Tensor& model_output, const SamplingLoopOptions& options) {
  const auto& generator = options.step.generator;
  Tensor noise =
      randn_tensor(model_output.sizes(), generator, model_output.device(), model_output.scalar_type()) *
      options.temperature;
  const double kept = 1 - options.noise_dropout;
  return kept < 1 ? noise * at::empty_like(noise).bernoulli_(kept, generator).div_(kept) : noise;
}

}  // namespace

Tensor sampling_loop(Scheduler& scheduler, const SamplingModel& model, const Tensor& sample,
                     const SamplingLoopOptions& options) {
  const at::NoGradGuard no_grad;
  require<ConfigError>(static_cast<bool>(model), "{}: model is an empty function", kLoop);
  require_sample(kLoop, "sample", sample);
  const Timesteps timesteps = checked_timesteps(kLoop, scheduler);
  check_loop_options(scheduler, sample, options);
  require<ConfigError>(options.start_step >= 0 && options.start_step < timesteps.numel() &&
                           options.start_step % scheduler.order() == 0,
                       "{}: start_step is {}, expected a multiple of {} from 0 to {}", kLoop,
                       options.start_step, scheduler.order(), timesteps.numel() - 1);
  const int64_t end = options.end_step.value_or(timesteps.numel());
  require<ConfigError>(end > options.start_step && end <= timesteps.numel(),
                       "{}: end_step is {}, expected {} to {}", kLoop, end, options.start_step + 1,
                       timesteps.numel());
  const bool tempered = options.temperature != 1 || options.noise_dropout > 0;
  require<ConfigError>(!tempered || !options.step.variance_noise.defined(),
                       "{}: variance_noise cannot be given with temperature or noise_dropout", kLoop);
  const Tensor mask = options.mask.defined() ? options.mask.to(sample.scalar_type()) : Tensor();

  Tensor x = sample;
  for (int64_t i = options.start_step; i < end; ++i) {
    const Tensor t = timesteps[i];
    if (mask.defined()) x = noised(scheduler, options.x0, t, options.step.generator) * mask + (1 - mask) * x;
    const Tensor input = options.scale_model_input ? scheduler.scale_model_input(x, t) : x;
    Tensor output = model(input, t);
    if (options.score_corrector) output = options.score_corrector(output, input, t);
    StepOptions step_options = options.step;
    if (tempered) {
      require_sample(kLoop, "the model's output", output);
      step_options.variance_noise = tempered_noise(output, options);
      step_options.generator.reset();
    }
    SchedulerOutput result = scheduler.step(output, t, x, step_options);
    if (options.callback) {
      options.callback(i, t, result);
      require<TensorError>(result.prev_sample.defined() && result.prev_sample.sizes() == x.sizes() &&
                               result.prev_sample.device() == x.device(),
                           "{}: the callback left {} as the sample, expected {}", kLoop,
                           describe(result.prev_sample), describe(x));
    }
    x = result.prev_sample;
  }
  return x;
}

Tensor sampling_loop(Scheduler& scheduler, const Denoiser& denoiser, const Conditioning& conditioning,
                     const Tensor& sample, const SamplingLoopOptions& options) {
  require<ConfigError>(static_cast<bool>(denoiser), "{}: denoiser is an empty function", kLoop);
  return sampling_loop(
      scheduler, [&](const Tensor& x, const Tensor& t) { return denoiser(x, t, conditioning); }, sample,
      options);
}

Tensor ddim_encode(const DDIMScheduler& scheduler, const SamplingModel& model, const Tensor& x0,
                   std::optional<int64_t> num_steps) {
  constexpr std::string_view kEncode = "ddim_encode";
  const at::NoGradGuard no_grad;
  require<ConfigError>(static_cast<bool>(model), "{}: model is an empty function", kEncode);
  require_sample(kEncode, "x0", x0);
  const Timesteps timesteps = checked_timesteps(kEncode, scheduler);
  const int64_t count = timesteps.numel();
  const int64_t steps = num_steps.value_or(count);
  require<ConfigError>(steps >= 1 && steps <= count, "{}: num_steps is {}, expected 1 to {}", kEncode, steps,
                       count);
  const Tensor host_timesteps = timesteps.to(at::kCPU, at::kLong).contiguous();
  const Tensor alphas_cumprod = scheduler.alphas_cumprod();
  float alpha_bar = scheduler.final_alpha_cumprod().item<float>();
  Tensor x = x0;
  for (int64_t i = count - 1; i >= count - steps; --i) {
    const float alpha_bar_next =
        alphas_cumprod.const_data_ptr<float>()[host_timesteps.const_data_ptr<int64_t>()[i]];
    const float beta_bar = 1 - alpha_bar;
    const Tensor output = model(x, timesteps[i]);
    require<TensorError>(output.defined() && output.sizes() == x.sizes() && output.device() == x.device(),
                         "{}: the model gave {}, expected {}", kEncode, describe(output), describe(x));
    const PredictionType type = scheduler.prediction_type();
    require<ConfigError>(type != PredictionType::kSample || beta_bar > 0,
                         "{}: a model of prediction_type \"sample\" tells nothing of the noise in clean "
                         "samples; set set_alpha_to_one = false",
                         kEncode);
    const NoiseLevel level{std::sqrt(alpha_bar), std::sqrt(beta_bar)};
    const Tensor pred_original_sample = data_prediction(type, output, x, level);
    const Tensor pred_epsilon = noise_prediction(type, output, x, level);
    // Song et al. 2020, eq. 12 with sigma = 0, towards more noise.
    x = std::sqrt(alpha_bar_next) * pred_original_sample + std::sqrt(1 - alpha_bar_next) * pred_epsilon;
    alpha_bar = alpha_bar_next;
  }
  return x;
}

Tensor stochastic_encode(const Scheduler& scheduler, const Tensor& x0, int64_t start_step,
                         const std::optional<Generator>& generator) {
  constexpr std::string_view kEncode = "stochastic_encode";
  require_sample(kEncode, "x0", x0);
  const Timesteps timesteps = checked_timesteps(kEncode, scheduler);
  require<ConfigError>(start_step >= 0 && start_step < timesteps.numel(),
                       "{}: start_step is {}, expected 0 to {}", kEncode, start_step, timesteps.numel() - 1);
  return noised(scheduler, x0, timesteps[start_step], generator);
}

std::vector<double> quadratic_timesteps(int64_t num_train_timesteps, int64_t num_inference_steps) {
  require<ConfigError>(
      num_train_timesteps >= 2 && num_inference_steps >= 1 && num_inference_steps <= num_train_timesteps,
      "quadratic_timesteps: num_inference_steps is {} and num_train_timesteps {}, expected at "
      "least 1 and 2, and not more steps than timesteps",
      num_inference_steps, num_train_timesteps);
  const double end = std::sqrt(static_cast<double>(num_train_timesteps) * 0.8);
  const double stride = num_inference_steps > 1 ? end / static_cast<double>(num_inference_steps - 1) : 0.0;
  std::vector<double> timesteps;
  for (int64_t i = num_inference_steps - 1; i >= 0; --i) {
    const double root = i > 0 && i == num_inference_steps - 1 ? end : static_cast<double>(i) * stride;
    timesteps.push_back(std::min(std::trunc(root * root) + 1, static_cast<double>(num_train_timesteps - 1)));
  }
  timesteps.erase(std::unique(timesteps.begin(), timesteps.end()), timesteps.end());
  return timesteps;
}

}  // namespace diffusers

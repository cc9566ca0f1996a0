#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/core/tensor.h>
#include <diffusers/models/conditioning.h>
#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/schedulers/scheduler.h>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// A function that predicts from a sample, scaled as the scheduler says, and a 0-dim timestep. Conditioning
/// and guidance are inside the function. A `Denoiser` with its `Conditioning` serves as well.
using SamplingModel = std::function<Tensor(const Tensor& sample, const Tensor& timestep)>;

/// A function that changes the model's epsilon before the step, for example classifier guidance.
/// @param epsilon the model's output
/// @param sample the scaled sample
/// @param timestep 0-dim
using ScoreCorrector =
    std::function<Tensor(const Tensor& epsilon, const Tensor& sample, const Tensor& timestep)>;

/// A function that is called after each step with the position in `timesteps()`, the timestep and the result
/// of the step. Assigning to `prev_sample` changes what the next step starts from.
using SamplingCallback = std::function<void(int64_t step, const Tensor& timestep, SchedulerOutput& output)>;

/// Options of `sampling_loop`: the hooks of latent-diffusion's `DDIMSampler.sample`, for any scheduler.
struct SamplingLoopOptions {
  /// Arguments of every `Scheduler::step`: eta, generator, ... The loop draws from this generator too.
  StepOptions step = {};
  /// 1 where `x0` is known, 0 where the model fills in; broadcasts to the sample. Before each step the known
  /// part is replaced by x0 with the noise of that timestep, so that a model without mask channels can
  /// inpaint. As in DDIMSampler, the result of the last step is not replaced.
  Tensor mask = {};
  Tensor x0 = {};  ///< the known samples, with the sample's shape, dtype and device; required with `mask`
  double temperature = 1.0;  ///< factor on the noise that a stochastic step adds, from 0
  /// Share of that noise's elements that are set to 0 (the others are scaled up), from 0 and below 1.
  double noise_dropout = 0.0;
  ScoreCorrector score_corrector = {};  ///< empty: none. Needs a scheduler that predicts epsilon.
  SamplingCallback callback = {};       ///< called after each step; empty: none
  /// Position in `timesteps()` to start at, a multiple of the scheduler's order(). A sample of `ddim_encode`
  /// or `stochastic_encode` is decoded from the position to which it was encoded.
  int64_t start_step = 0;
  /// Whether the model receives `scheduler.scale_model_input(sample)`. false: the sample itself, as in
  /// Python's DDPMPipeline and DDIMPipeline.
  bool scale_model_input = true;
  /// Position in `timesteps()` to stop before, so that another model can continue; none: all are run.
  std::optional<int64_t> end_step = std::nullopt;
};

/// Runs the scheduler along its timesteps, which `set_timesteps` has set. This is the loop of all pipelines.
/// Records no gradients. A step reads nothing from the device.
/// @param scheduler its `step` is called once for each timestep
/// @param model predicts what the scheduler's prediction_type says
/// @param sample starting point, `[B, ...]` floating: noise times init_noise_sigma(), or an encoded sample
///   with `start_step`
/// @param options hooks and arguments of `step`
/// @return the sample after the last step
/// @throws ConfigError if an option cannot work: temperature and noise_dropout need a scheduler whose step
///   takes `variance_noise`, score_corrector one that predicts epsilon
/// @throws TensorError if shapes do not fit
Tensor sampling_loop(Scheduler& scheduler, const SamplingModel& model, const Tensor& sample,
                     const SamplingLoopOptions& options = {});

/// The same loop with a Denoiser, for example of `make_denoiser` or `classifier_free_guidance`.
/// @param scheduler its `step` is called once for each timestep
/// @param denoiser called with the scaled sample, the 0-dim timestep and `conditioning`
/// @param conditioning the same for all steps
/// @param sample starting point, as above
/// @param options hooks and arguments of `step`
/// @return the sample after the last step
/// @throws ConfigError, TensorError as above
Tensor sampling_loop(Scheduler& scheduler, const Denoiser& denoiser, const Conditioning& conditioning,
                     const Tensor& sample, const SamplingLoopOptions& options = {});

/// DDIM inversion: finds the noise from which deterministic sampling leads back to `x0`, up to the error of
/// the steps. It follows the probability flow upwards through the timesteps of the scheduler, evenly spaced
/// or not; with even spacing it equals `DDIMInverseScheduler`.
/// @param scheduler with timesteps set
/// @param model predicts what the scheduler's prediction_type says
/// @param x0 clean samples, `[B, ...]` floating
/// @param num_steps number of timesteps to go; none: all. The result continues with
///   `sampling_loop(..., {.start_step = timesteps().size(0) - num_steps})`.
/// @return the encoded samples, shape of x0
/// @throws ConfigError unless 1 <= num_steps <= the number of timesteps
Tensor ddim_encode(const DDIMScheduler& scheduler, const SamplingModel& model, const Tensor& x0,
                   std::optional<int64_t> num_steps = std::nullopt);

/// Adds the noise of `timesteps()[start_step]` to x0, so that `sampling_loop` decodes it from there (image to
/// image).
/// @param scheduler with timesteps set
/// @param x0 clean samples, `[B, ...]` floating
/// @param start_step position in `timesteps()`
/// @param generator draws the noise; none: the global generator of the device
/// @return the noisy samples, shape of x0
/// @throws ConfigError if start_step is not a position in `timesteps()`
Tensor stochastic_encode(const Scheduler& scheduler, const Tensor& x0, int64_t start_step,
                         const std::optional<Generator>& generator = std::nullopt);

/// Timesteps that lie closer together where there is less noise, for
/// `set_timesteps(std::nullopt, {.timesteps = ...})`: squares from 0 to 0.8 T, plus 1, descending
/// (latent-diffusion's `ddim_discretize="quad"`, Song et al. 2020, appendix D.2). Near 0, many steps give
/// equal timesteps; they are listed once.
/// @param num_train_timesteps T, at least 2
/// @param num_inference_steps 1 to T
/// @return at most num_inference_steps timesteps
/// @throws ConfigError if an argument is out of range
std::vector<double> quadratic_timesteps(int64_t num_train_timesteps, int64_t num_inference_steps);

}  // namespace diffusers

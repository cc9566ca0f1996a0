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

/// A function that predicts from a sample, scaled by `Scheduler::scale_model_input`, and a 0-dim timestep.
/// The function applies conditioning and guidance itself. `sampling_loop` also accepts a `Denoiser` and its
/// `Conditioning`.
using SamplingModel = std::function<Tensor(const Tensor& sample, const Tensor& timestep)>;

/// A function that changes the model's epsilon before the step, for example classifier guidance.
/// @param epsilon the model's output
/// @param sample the scaled sample
/// @param timestep the timestep, 0-dim
/// @return the changed epsilon
using ScoreCorrector =
    std::function<Tensor(const Tensor& epsilon, const Tensor& sample, const Tensor& timestep)>;

/// A function that is called after each step. It may assign a new `prev_sample`, from which the next step
/// starts.
/// @param step position in `timesteps()`
/// @param timestep the timestep, 0-dim
/// @param output result of the step
using SamplingCallback = std::function<void(int64_t step, const Tensor& timestep, SchedulerOutput& output)>;

/// Options of `sampling_loop`. They correspond to those of latent-diffusion's `DDIMSampler.sample`, and work
/// with any scheduler.
struct SamplingLoopOptions {
  /// Arguments of every `Scheduler::step`: eta, generator and others. The loop draws from this generator,
  /// too.
  StepOptions step = {};
  /// Mask for inpainting with a model without mask channels: 1 where `x0` is known, 0 where the model
  /// generates. Broadcasts to the sample. Before each step the known part is replaced by x0 with the noise of
  /// that timestep. As in DDIMSampler, the result of the last step is not replaced.
  Tensor mask = {};
  Tensor x0 = {};  ///< the known samples, with the sample's shape, dtype and device; required with `mask`
  double temperature = 1.0;  ///< factor of the noise that a stochastic step adds; at least 0
  /// Dropout probability of the elements of that noise, in [0, 1). The other elements are divided by 1 - p.
  double noise_dropout = 0.0;
  /// Changes the model's epsilon; empty: none. The scheduler's prediction_type must be epsilon.
  ScoreCorrector score_corrector = {};
  SamplingCallback callback = {};  ///< called after each step; empty: none
  /// Position in `timesteps()` of the first step, a multiple of the scheduler's order(). A sample from
  /// `ddim_encode` or `stochastic_encode` starts at the position to which it was encoded.
  int64_t start_step = 0;
  /// Passes `scheduler.scale_model_input(sample)` to the model. false: passes the sample itself, as Python's
  /// DDPMPipeline and DDIMPipeline do.
  bool scale_model_input = true;
  /// Position in `timesteps()` to stop before, so that another model can continue; none: all are run.
  std::optional<int64_t> end_step = std::nullopt;
};

/// Denoises a sample: calls model and scheduler once for each timestep. Call `set_timesteps` of the scheduler
/// first. All pipelines use this loop. It records no gradients, and a step does not wait for the device.
/// @param scheduler its `step` is called once for each timestep
/// @param model predicts the quantity that the scheduler's prediction_type names
/// @param sample starting point, `[B, ...]` floating: noise times init_noise_sigma(), or an encoded sample
///   with `start_step`
/// @param options hooks and arguments of `step`
/// @return the sample after the last step
/// @throws ConfigError naming an option that is not valid. temperature and noise_dropout need a scheduler
///   whose step takes `variance_noise`; score_corrector needs prediction_type epsilon.
/// @throws TensorError if shapes do not fit
/// @throws Error if the scheduler has no timesteps
Tensor sampling_loop(Scheduler& scheduler, const SamplingModel& model, const Tensor& sample,
                     const SamplingLoopOptions& options = {});

/// Denoises a sample with a Denoiser, for example from `make_denoiser` or `classifier_free_guidance`.
/// @param scheduler its `step` is called once for each timestep
/// @param denoiser called with the scaled sample, the 0-dim timestep and `conditioning`
/// @param conditioning the same for all steps
/// @param sample starting point, as above
/// @param options hooks and arguments of `step`
/// @return the sample after the last step
/// @throws ConfigError as above
/// @throws TensorError as above
/// @throws Error as above
Tensor sampling_loop(Scheduler& scheduler, const Denoiser& denoiser, const Conditioning& conditioning,
                     const Tensor& sample, const SamplingLoopOptions& options = {});

/// Inverts DDIM sampling: computes the noise from which deterministic sampling reconstructs `x0`, up to the
/// discretisation error. It follows the probability flow through the scheduler's timesteps in ascending
/// order. With evenly spaced timesteps it equals `DDIMInverseScheduler`.
/// @param scheduler with timesteps set
/// @param model predicts the quantity that the scheduler's prediction_type names
/// @param x0 clean samples, `[B, ...]` floating
/// @param num_steps number of timesteps; nullopt: all. Decode the result with
///   `sampling_loop(..., {.start_step = timesteps().size(0) - num_steps})`.
/// @return the encoded samples, shape of x0
/// @throws ConfigError unless 1 <= num_steps <= the number of timesteps
/// @throws Error if the scheduler has no timesteps
Tensor ddim_encode(const DDIMScheduler& scheduler, const SamplingModel& model, const Tensor& x0,
                   std::optional<int64_t> num_steps = std::nullopt);

/// Adds the noise of `timesteps()[start_step]` to x0. `sampling_loop` with this start_step decodes the result
/// (image to image).
/// @param scheduler with timesteps set
/// @param x0 clean samples, `[B, ...]` floating
/// @param start_step position in `timesteps()`
/// @param generator source of the noise; nullopt: global generator of the device
/// @return the noisy samples, shape of x0
/// @throws ConfigError if start_step is not a position in `timesteps()`
/// @throws Error if the scheduler has no timesteps
Tensor stochastic_encode(const Scheduler& scheduler, const Tensor& x0, int64_t start_step,
                         const std::optional<Generator>& generator = std::nullopt);

/// Computes timesteps with quadratic spacing, which is denser at low noise, for `set_timesteps(std::nullopt,
/// {.timesteps = ...})`: squares from 0 to 0.8 T, plus 1, in descending order (latent-diffusion's
/// `ddim_discretize="quad"`, Song et al. 2020, appendix D.2). Equal timesteps near 0 are listed once.
/// @param num_train_timesteps T, at least 2
/// @param num_inference_steps 1 to T
/// @return at most num_inference_steps timesteps
/// @throws ConfigError if an argument is out of range
std::vector<double> quadratic_timesteps(int64_t num_train_timesteps, int64_t num_inference_steps);

}  // namespace diffusers

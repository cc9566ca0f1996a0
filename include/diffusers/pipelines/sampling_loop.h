#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/core/tensor.h>
#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/schedulers/scheduler.h>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// The prediction for a sample, scaled as the scheduler says, at a 0-dim timestep. Conditioning, guidance and
/// the like are the caller's: a lambda around any model will do.
using SamplingModel = std::function<Tensor(const Tensor& sample, const Tensor& timestep)>;

/// epsilon as the step is to take it, from the model's epsilon, the scaled sample and the timestep:
/// classifier guidance and other corrections of the score.
using ScoreCorrector =
    std::function<Tensor(const Tensor& epsilon, const Tensor& sample, const Tensor& timestep)>;

/// Called after each step with its position in `timesteps()`, the timestep and what the step returned.
/// Assigning to `prev_sample` changes what the next step starts from.
using SamplingCallback = std::function<void(int64_t step, const Tensor& timestep, SchedulerOutput& output)>;

/// The hooks that latent-diffusion's `DDIMSampler.sample` has, for any scheduler.
struct SamplingLoopOptions {
  /// What every step is called with: eta, generator, ... The generator serves the loop's own draws as well.
  StepOptions step = {};
  /// 1 where `x0` is known, 0 where the model fills in; broadcasts to the sample. Before each step the known
  /// part is replaced by x0 with the noise of that timestep, so a model without mask channels can inpaint. As
  /// in DDIMSampler the last step's result is left alone.
  Tensor mask = {};
  Tensor x0 = {};  ///< the known samples, of the sample's shape
  /// Factor on the noise that a stochastic step adds.
  double temperature = 1.0;
  /// Part of that noise's elements that are dropped, the others being scaled up; 0 to 1, 1 excluded.
  double noise_dropout = 0.0;
  ScoreCorrector score_corrector = {};
  SamplingCallback callback = {};
  /// The position in `timesteps()` to start at: a sample from `ddim_encode` or `stochastic_encode` is decoded
  /// from where it was encoded to. A multiple of the scheduler's order().
  int64_t start_step = 0;
};

/// Runs the scheduler down its timesteps, which `set_timesteps` has set, and returns the last sample. No
/// gradients are recorded.
/// @param sample where to start: noise times init_noise_sigma(), or an encoded sample with `start_step`
/// @throws ConfigError where an option cannot work: temperature and noise_dropout need a scheduler whose step
/// takes
///         `variance_noise`, score_corrector one that predicts epsilon; TensorError on shapes that do not fit
Tensor sampling_loop(Scheduler& scheduler, const SamplingModel& model, const Tensor& sample,
                     const SamplingLoopOptions& options = {});

/// DDIM inversion: the noise from which sampling without noise leads back to `x0`, up to the error of the
/// steps. The probability flow is followed upwards through the timesteps of the scheduler, evenly spaced or
/// not; with even spacing that is what `DDIMInverseScheduler` does.
/// @param num_steps how far to go; none: through all timesteps. The result continues with
///        `sampling_loop(..., {.start_step = timesteps().size(0) - num_steps})`.
/// @throws ConfigError unless 1 <= num_steps <= the number of timesteps
Tensor ddim_encode(const DDIMScheduler& scheduler, const SamplingModel& model, const Tensor& x0,
                   std::optional<int64_t> num_steps = std::nullopt);

/// x0 with the noise of `timesteps()[start_step]`, from where `sampling_loop` decodes it (image to image).
Tensor stochastic_encode(const Scheduler& scheduler, const Tensor& x0, int64_t start_step,
                         const std::optional<Generator>& generator = std::nullopt);

/// Timesteps that lie the closer the less noise there is, for `set_timesteps(std::nullopt, {.timesteps =
/// ...})`: squares from 0 to 0.8 T, plus 1, descending (latent-diffusion's `ddim_discretize="quad"`, Song et
/// al. 2020, appendix D.2). Equal ones, which many steps bring about near 0, stand once.
/// @throws ConfigError unless 1 <= num_inference_steps <= num_train_timesteps and there are at least 2 of the
/// latter
std::vector<double> quadratic_timesteps(int64_t num_train_timesteps, int64_t num_inference_steps);

}  // namespace diffusers

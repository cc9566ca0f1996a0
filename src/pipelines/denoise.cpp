#include <utility>

#include <diffusers/core/error.h>
#include <diffusers/core/tensor.h>
#include <diffusers/pipelines/denoise.h>

#include "core/require.h"
#include "pipelines/progress_bar.h"

namespace diffusers {
namespace {

/// Calls the callback and checks that the next step can use the sample that it returns.
void call_step_end(const StepEndCallback& callback, int64_t step, const Tensor& timestep, Tensor& sample) {
  if (!callback) return;
  const Tensor before = sample;
  callback(step, timestep, sample);
  require<TensorError>(
      sample.defined() && sample.sizes() == before.sizes() && sample.options().type_equal(before.options()),
      "callback_on_step_end gave {}, expected {}", describe(sample), describe(before));
}

}  // namespace

Tensor denoise(DiffusionPipeline& pipeline, const Denoiser& denoiser, const Conditioning& conditioning,
               const Tensor& sample, int64_t num_inference_steps, const StepEndCallback& callback_on_step_end,
               SamplingLoopOptions options) {
  Scheduler& scheduler = pipeline.scheduler();
  const Timesteps timesteps = scheduler.timesteps();
  const int64_t start = options.start_step;
  const int64_t total = options.end_step.value_or(timesteps.defined() ? timesteps.numel() : start) - start;
  const int64_t order = scheduler.order();
  // A scheduler may have more timesteps than steps: PNDM at the start, Heun in every step.
  const int64_t num_warmup_steps = total - num_inference_steps * order;
  ProgressBar bar(pipeline.progress_bar_config(), num_inference_steps);
  int64_t done = 0;
  options.callback = [&, changes = std::move(options.callback)](int64_t position, const Tensor& t,
                                                                SchedulerOutput& output) {
    if (changes) changes(position, t, output);
    const int64_t i = position - start;
    call_step_end(callback_on_step_end, i, t, output.prev_sample);
    if (i + 1 == total || (i + 1 > num_warmup_steps && (i + 1) % order == 0)) bar.update(++done);
  };
  return sampling_loop(scheduler, denoiser, conditioning, sample, options);
}

}  // namespace diffusers

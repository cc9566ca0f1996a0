// Trains a UNet2DModel on image files or IDX files, as diffusers' train_unconditional.py does, and writes a
// pipeline folder that Python opens with DDPMPipeline.from_pretrained.

#include <cmath>

#include "../program.h"
#include "../train_flags.h"
#include "unconditional_training.h"

using namespace diffusers;

namespace {

constexpr int64_t kDefaultResolution = 64;

int run(int argc, char** argv) {
  UnconditionalSettings settings;
  settings.training.handle_signals = true;
  CLI::App app("Trains a diffusion model on image files or IDX files, with or without class labels");
  add_unconditional_flags(app, settings);
  refuse_python_flags(app, argc, argv);
  parse_or_exit(app, argc, argv);
  complete_settings(app, settings, kDefaultResolution);

  UnconditionalTraining job(settings, {});
  const int64_t count = settings.eval_batch_size;
  const int64_t columns = settings.class_conditional
                              ? job.columns()
                              : static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(count))));
  const TrainingResult result = job.train([&](const PreviewContext& at) {
    at.log_images("test_samples",
                  job.sample({.labels = job.labels(count, columns),
                              .count = count,
                              .steps = settings.ddpm_num_inference_steps,
                              .guidance_scale = settings.guidance_scale,
                              .must_stop = at.stop_requested}),
                  {.columns = columns});
  });
  return exit_code(result);
}

}  // namespace

int main(int argc, char** argv) { return run_program("train_unconditional", run, argc, argv); }

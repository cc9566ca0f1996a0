// Trains a diffusion model on MNIST in a few minutes, draws samples and evaluates them with a classifier. It
// is train_unconditional with a small model and suitable defaults.

#include <algorithm>
#include <cstdio>
#include <string>

#include <diffusers/io/image.h>

#include "../program.h"
#include "../train_flags.h"
#include "../training_group.h"
#include "evaluation.h"
#include "unconditional_training.h"

using namespace diffusers;

namespace {

/// The flags that train_unconditional does not have.
struct MnistSettings {
  std::string preset = "auto";
  double ddim_eta = 1.0;
  double temperature = 0.8;
};

const FlagTable<MnistSettings>& mnist_flags() {
  using Settings = MnistSettings;
  static const FlagTable<Settings> table{
      {"Program",
       {{"--preset",
         &Settings::preset,
         "Defaults of the other flags. cpu: a small model and 12,000 steps; full: 1.7 million parameters "
         "and 20 epochs; auto: full with a CUDA device, else cpu.",
         {.check = CLI::IsMember({"auto", "cpu", "full"})}}}},
      {"Samples",
       {{"--ddim_eta",
         &Settings::ddim_eta,
         "Noise of the DDIM sampler: 0 adds none, 1 as much as DDPM.",
         {.check = between(0, 1)}},
        {"--temperature",
         &Settings::temperature,
         "Factor on that noise. Below 1 the samples are more typical and less diverse.",
         {.check = at_least(0)}}}},
  };
  return table;
}

/// Sets the defaults for two CPU cores: a small model with attention only at 7x7, small batches, and a high
/// learning rate.
void set_cpu_preset(UnconditionalSettings& settings) {
  settings.model = {.down_block_types = {"DownBlock2D", "DownBlock2D", "AttnDownBlock2D"},
                    .up_block_types = {"AttnUpBlock2D", "UpBlock2D", "UpBlock2D"},
                    .block_out_channels = {16, 32, 64},
                    .layers_per_block = 1,
                    .norm_num_groups = 8};
  settings.training.train_batch_size = 32;
  settings.training.max_train_steps = 12000;
  settings.training.learning_rate = 5e-3;
  settings.training.adam_beta1 = 0.9;
  settings.training.adam_beta2 = 0.99;
  settings.training.lr_warmup_steps = 200;
  settings.training.validation_steps = 400;
  settings.eval_batch_size = 256;
}

/// Sets the defaults for a GPU: 1.7 million parameters and twenty epochs.
void set_full_preset(UnconditionalSettings& settings) {
  settings.model = {.down_block_types = {"DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"},
                    .up_block_types = {"AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"},
                    .block_out_channels = {32, 64, 64},
                    .layers_per_block = 2};
  settings.training.train_batch_size = 128;
  settings.training.num_epochs = 20;
  settings.training.learning_rate = 1e-3;
  settings.training.lr_warmup_steps = 500;
  settings.training.validation_steps = 1000;
  settings.eval_batch_size = 1024;
}

UnconditionalSettings preset_settings(const std::string& preset, bool class_conditional) {
  UnconditionalSettings settings;
  const bool has_cuda = settings.device != "cpu";
  if (preset == "full" || (preset == "auto" && has_cuda)) {
    set_full_preset(settings);
  } else {
    set_cpu_preset(settings);
  }
  settings.data.dataset = "mnist";
  settings.ddpm_num_inference_steps = class_conditional ? 30 : 100;
  settings.save_images_epochs.reset();
  settings.save_model_epochs.reset();
  settings.scheduler = {.beta_schedule = BetaSchedule::kSquaredcosCapV2,
                        .prediction_type = PredictionType::kVPrediction};
  settings.training.output_dir = class_conditional ? "out/mnist_conditional" : "out/mnist";
  settings.training.seed = 0;
  settings.training.use_ema = true;
  settings.training.checkpoints_total_limit = 2;
  settings.training.handle_signals = true;
  if (class_conditional) settings.eval_batch_size = 500;
  return settings;
}

/// Parses the flags. The preset determines the defaults of the other flags, at any position on the command
/// line.
UnconditionalSettings parse_flags(int argc, char** argv, MnistSettings& mnist) {
  bool class_conditional = false;
  CLI::App first;
  first.set_help_flag();
  first.allow_extras();
  first.add_option("--preset", mnist.preset)->check(CLI::IsMember({"auto", "cpu", "full"}));
  first.add_flag("--class_conditional", class_conditional);
  parse_or_exit(first, argc, argv);

  UnconditionalSettings settings = preset_settings(mnist.preset, class_conditional);
  CLI::App app("Trains a diffusion model on MNIST and draws samples.png. The defaults are those of --preset");
  add_flags(app, mnist_flags(), mnist);
  add_unconditional_flags(app, settings);
  refuse_python_flags(app, argc, argv);
  parse_or_exit(app, argc, argv);
  complete_settings(app, settings,
                    settings.data.train_data_dir.empty() && !settings.data.shards.is_given() ? 28 : 64);
  if (settings.data.is_idx() && settings.eval_batch_size < 2)
    throw ConfigError(
        "--eval_batch_size is 1, expected at least 2, since the samples are compared with the test images");
  return settings;
}

/// Draws samples.png, with one column for each class, and evaluates several guidance scales.
void draw_classes(UnconditionalTraining& job, const UnconditionalSettings& settings, const std::string& out) {
  const TrainingData& data = job.data();
  SampleRequest request{.labels = job.labels(8 * job.columns(), job.columns()),
                        .count = 8 * job.columns(),
                        .steps = settings.ddpm_num_inference_steps,
                        .guidance_scale = settings.guidance_scale};
  save_image_grid(job.sample(request), out + "samples.png", {.columns = job.columns()});
  std::printf("samples, one column for each class: %ssamples.png\n", out.c_str());
  if (!data.held_out) return;
  request.labels = job.labels(settings.eval_batch_size, data.num_classes);
  request.count = settings.eval_batch_size;
  const auto sample = [&](double scale) {
    request.guidance_scale = scale;
    return job.sample(request);
  };
  evaluate_guidance(sample, request.labels, data.train.dataset(), *data.held_out, data.num_classes, out);
}

/// Draws samples.png and evaluates the samples.
void draw_samples(UnconditionalTraining& job, const UnconditionalSettings& settings, const std::string& out) {
  const TrainingData& data = job.data();
  const Tensor images =
      job.sample({.count = settings.eval_batch_size, .steps = settings.ddpm_num_inference_steps});
  save_image_grid(images.slice(0, 0, 64), out + "samples.png", {.columns = 8});
  std::printf("samples: %ssamples.png\n", out.c_str());
  if (data.held_out)
    print_evaluation(evaluate_samples(images, data.train.dataset(), *data.held_out, data.num_classes,
                                      out + "classifier.safetensors"),
                     images.size(0));
}

int run(int argc, char** argv) {
  MnistSettings mnist;
  const UnconditionalSettings settings = parse_flags(argc, argv, mnist);
  const std::string out = settings.training.output_dir + "/";
  UnconditionalTraining job(settings,
                            {.use_ddim = true, .eta = mnist.ddim_eta, .temperature = mnist.temperature});

  const int64_t preview_steps = std::min<int64_t>(20, settings.scheduler.num_train_timesteps);
  const int64_t preview_count = settings.class_conditional ? 2 * job.columns() : 16;
  const TrainingResult result = job.train([&](const PreviewContext& at) {
    at.log_images("step",
                  job.sample({.labels = job.labels(preview_count, job.columns()),
                              .count = preview_count,
                              .steps = preview_steps,
                              .guidance_scale = settings.guidance_scale,
                              .must_stop = at.stop_requested}),
                  {.columns = job.columns()});
  });
  if (const int code = exit_code(result); code != 0 || !training_group().is_main()) return code;
  if (settings.class_conditional) {
    draw_classes(job, settings, out);
  } else {
    draw_samples(job, settings, out);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return run_program("train_mnist", run, argc, argv); }

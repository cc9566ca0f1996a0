#include "train_flags.h"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "program.h"

using namespace diffusers;

namespace {

// For two cores: a small model with attention only at 7x7, small batches, and a learning rate as high as they
// bear.
Settings cpu_preset() {
  Settings settings;
  settings.model = {.sample_size = 28,
                    .in_channels = 1,
                    .out_channels = 1,
                    .down_block_types = {"DownBlock2D", "DownBlock2D", "AttnDownBlock2D"},
                    .up_block_types = {"AttnUpBlock2D", "UpBlock2D", "UpBlock2D"},
                    .block_out_channels = {16, 32, 64},
                    .layers_per_block = 1,
                    .norm_num_groups = 8};
  settings.training.train_batch_size = 32;
  settings.training.max_train_steps = 2800;
  settings.training.learning_rate = 5e-3;
  settings.training.adam_beta1 = 0.9;
  settings.training.adam_beta2 = 0.99;
  settings.training.lr_warmup_steps = 200;
  settings.training.validation_steps = 400;
  settings.training.cpu_data_parallel = std::min(at::get_num_threads(), 4);
  return settings;
}

// A few minutes on a GPU: the model that the lesson ends with, 1.7 million parameters, twenty times through
// the data.
Settings full_preset() {
  Settings settings;
  settings.model = {.sample_size = 28,
                    .in_channels = 1,
                    .out_channels = 1,
                    .down_block_types = {"DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"},
                    .up_block_types = {"AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"},
                    .block_out_channels = {32, 64, 64},
                    .layers_per_block = 2};
  settings.training.train_batch_size = 128;
  settings.training.num_epochs = 20;
  settings.training.learning_rate = 1e-3;
  settings.training.lr_warmup_steps = 500;
  settings.training.validation_steps = 1000;
  settings.eval_batch_size = 1024;
  return settings;
}

/// What both presets share.
Settings preset_settings(const std::string& preset, bool class_conditional) {
  const bool has_cuda = torch::cuda::is_available();
  Settings settings = preset == "full" || (preset == "auto" && has_cuda) ? full_preset() : cpu_preset();
  settings.device = has_cuda ? torch::kCUDA : torch::kCPU;
  settings.scheduler = {.beta_schedule = BetaSchedule::kSquaredcosCapV2,
                        .prediction_type = PredictionType::kVPrediction};
  settings.training.output_dir = "out/mnist";
  settings.training.seed = 0;
  settings.training.use_ema = true;
  settings.training.checkpoints_total_limit = 2;
  settings.training.handle_signals = true;
  if (class_conditional) {
    settings.training.output_dir = "out/mnist_conditional";
    settings.task.class_conditional = true;
    settings.task.class_dropout_prob = 0.1;
    settings.num_inference_steps = 30;
    settings.eval_batch_size = 500;
  }
  return settings;
}

/// An option whose values are the Python strings of an enumeration.
/// @param offered those that can be chosen; empty: all
template <class Enum>
void add_choice(CLI::App& app, const std::string& flag, EnumChoice<Enum>& value,
                const std::vector<Enum>& offered = {}) {
  std::vector<std::string> names;
  for (const auto& [entry, name] : EnumNames<Enum>::kTable)
    if (offered.empty() || std::find(offered.begin(), offered.end(), entry) != offered.end())
      names.emplace_back(name);
  app.add_option_function<std::string>(
         flag, [&value, flag](const std::string& name) { value = enum_from_name<Enum>(name, flag); })
      ->check(CLI::IsMember(names))
      ->default_str(std::string(enum_name(static_cast<Enum>(value))));
}

void read_model(const std::string& path, Settings& settings) {
  const std::string text = folder_exists(path) ? read_model_file(path, "config.json") : read_text_file(path);
  settings.model = UNet2DModel::from_config(text)->config();
  settings.has_model_config = true;
}

/// The side of the images: that of the flag, else that of the model, else the data set's.
int64_t choose_resolution(const Settings& settings, int64_t flag) {
  const int64_t of_data = settings.is_idx() ? 28 : 64;
  const std::vector<int64_t>& of_model = settings.model.sample_size.values();
  if (!settings.has_model_config || of_model.empty()) return flag > 0 ? flag : of_data;
  const bool is_square = of_model.front() == of_model.back();
  if (flag == 0 && !is_square)
    throw ConfigError("--model_config_name_or_path: sample_size is " + std::to_string(of_model.front()) +
                      " x " + std::to_string(of_model.back()) +
                      ", expected a square; --resolution sets another one");
  if (flag > 0 && (!is_square || of_model.front() != flag))
    log_message(LogLevel::kWarning, "--resolution " + std::to_string(flag) + " replaces sample_size " +
                                        std::to_string(of_model.front()) + " of --model_config_name_or_path");
  return flag > 0 ? flag : of_model.front();
}

/// Refuses flags that would have no effect, and numbers that would fail after the training only.
void check_flags(const CLI::App& app, Settings& settings) {
  const auto is_given = [&](const char* flag) { return app.count(flag) > 0; };
  const auto refuse = [&](bool is_wrong, const std::string& message) {
    if (is_wrong) throw ConfigError(message);
  };
  refuse(!settings.is_idx() && is_given("--data_dir"),
         "--data_dir is for --dataset mnist and fashion-mnist; a folder of pictures is named by --dataset");
  refuse(settings.is_idx() && is_given("--center_crop"),
         "--center_crop is for a folder of pictures; the images of --dataset " + settings.dataset +
             " are not cropped");
  for (const char* flag : {"--guidance_scale", "--class_dropout_prob"})
    refuse(!settings.is_class_conditional() && is_given(flag),
           std::string(flag) + " needs --class_conditional");
  const int64_t ddpm_steps = settings.scheduler.num_train_timesteps;
  if (settings.training.timestep_bias_strategy == TimestepBias::kRange && !is_given("--timestep_bias_end"))
    settings.training.timestep_bias_end = std::min(settings.training.timestep_bias_end, ddpm_steps);
  if (!is_given("--ddpm_num_inference_steps"))
    settings.num_inference_steps = std::min(settings.num_inference_steps, ddpm_steps);
  refuse(settings.num_inference_steps < 1 || settings.num_inference_steps > ddpm_steps,
         "--ddpm_num_inference_steps is " + std::to_string(settings.num_inference_steps) +
             ", expected 1 to " + std::to_string(ddpm_steps) + ", the value of --ddpm_num_steps");
  refuse(settings.is_idx() && settings.eval_batch_size < 2,
         "--eval_batch_size is 1, expected at least 2: the samples are compared with the test images");
}

void parse_or_exit(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::exit(app.exit(error));
  }
}

}  // namespace

std::string Settings::data_folder() const {
  if (!data_dir.empty()) return data_dir;
  return dataset == "mnist" ? "examples/data/mnist" : "/usr/share/datasets/fashion-mnist";
}

Settings parse_flags(int argc, char** argv) {
  const CLI::IsMember presets({"auto", "cpu", "full"});
  std::string preset = "auto";
  bool class_conditional = false;
  {
    // The preset decides what the other flags change, wherever it stands on the command line.
    CLI::App first;
    first.set_help_flag();
    first.allow_extras();
    first.add_option("--preset", preset)->check(presets);
    first.add_flag("--class_conditional", class_conditional);
    parse_or_exit(first, argc, argv);
  }
  Settings settings = preset_settings(preset, class_conditional);
  TrainingConfig& training = settings.training;
  int64_t resolution = 0;
  std::string device = settings.device.str();

  CLI::App app("Trains a diffusion model, by default on MNIST, and draws samples.png");
  app.option_defaults()->always_capture_default();
  app.add_option("--preset", preset,
                 "cpu: a small model and 2,800 steps; full: 1.7 million parameters, 20 "
                 "epochs; auto: full "
                 "with a CUDA device, else cpu. The defaults below are the preset's")
      ->check(presets);
  app.add_flag("--class_conditional", class_conditional,
               "train with labels, draw each class in a column of its own, and say at several guidance "
               "scales how many samples are of their class; the classes of a folder are its sub-folders; "
               "changes defaults as well");

  app.option_defaults()->group("Data");
  app.add_option("--dataset", settings.dataset, "mnist, fashion-mnist, or a folder of PNG and JPEG files");
  app.add_option(
      "--data_dir", settings.data_dir,
      "folder of the four IDX files [examples/data/mnist; for fashion-mnist that of Debian's package]");
  app.add_option("--resolution", resolution,
                 "side of the images [the model config's; else 28, 64 for a folder]")
      ->check(CLI::PositiveNumber);
  app.add_flag("--center_crop", settings.center_crop,
               "folder only: crop the middle instead of a random part");
  app.add_flag("--random_flip", settings.random_flip, "mirror half of the images");

  std::string model_config;
  app.option_defaults()->group("Model");
  app.add_option(
      "--model_config_name_or_path", model_config,
      "config.json of a UNet2DModel, or the folder that holds it [the preset's model]; its channels "
      "and classes must be those of the data");

  app.option_defaults()->group("Diffusion");
  add_choice(app, "--prediction_type", settings.scheduler.prediction_type,
             {PredictionType::kEpsilon, PredictionType::kSample, PredictionType::kVPrediction});
  app.add_option("--ddpm_num_steps", settings.scheduler.num_train_timesteps);
  app.add_option("--ddpm_num_inference_steps", settings.num_inference_steps, "steps of the DDIM sampler");
  app.add_option("--ddim_eta", settings.eta, "noise of the DDIM sampler: 0 draws none, 1 as much as DDPM");
  app.add_option("--temperature", settings.temperature,
                 "factor on that noise: below 1 the samples are more typical and less various");
  app.add_option("--guidance_scale", settings.guidance_scale,
                 "class-conditional: of the pictures; 1 or less: no guidance");
  app.add_option("--class_dropout_prob", settings.task.class_dropout_prob,
                 "class-conditional: share of labels replaced by \"no class\", which guidance needs");
  add_choice(app, "--ddpm_beta_schedule", settings.scheduler.beta_schedule);
  app.add_option("--snr_gamma", training.snr_gamma, "min-SNR weighting of the loss; the paper recommends 5");
  app.add_option("--noise_offset", training.noise_offset);
  app.add_option("--input_perturbation", training.input_perturbation);
  add_choice(app, "--loss_type", training.loss_type);
  add_choice(app, "--weighting", settings.task.weighting);
  app.add_option("--p2_gamma", settings.task.p2_gamma);
  app.add_option("--p2_k", settings.task.p2_k);
  add_choice(app, "--timestep_sampling", settings.task.timestep_sampling);
  add_choice(app, "--timestep_bias_strategy", training.timestep_bias_strategy);
  app.add_option("--timestep_bias_multiplier", training.timestep_bias_multiplier);
  app.add_option("--timestep_bias_begin", training.timestep_bias_begin);
  app.add_option("--timestep_bias_end", training.timestep_bias_end);
  app.add_option("--timestep_bias_portion", training.timestep_bias_portion);
  app.add_option("--pyramid_noise_iterations", settings.task.pyramid_noise_iterations);
  app.add_option("--pyramid_noise_discount", settings.task.pyramid_noise_discount);
  add_choice(app, "--learned_log_variance", settings.task.learned_log_variance);

  app.option_defaults()->group("Training");
  app.add_option("--output_dir", training.output_dir);
  app.add_flag("--overwrite_output_dir", training.overwrite_output_dir,
               "remove what an earlier run wrote there");
  add_device_flag(app, device);
  app.add_option("--seed", training.seed);
  app.add_option("--train_batch_size", training.train_batch_size);
  app.add_option("--num_epochs", training.num_epochs);
  app.add_option("--max_train_steps", training.max_train_steps, "overrides --num_epochs");
  app.add_option("--gradient_accumulation_steps", training.gradient_accumulation_steps);
  app.add_flag("--gradient_checkpointing", training.gradient_checkpointing);
  add_choice(app, "--mixed_precision", training.mixed_precision);
  app.add_option("--learning_rate", training.learning_rate);
  app.add_option("--lr_scheduler", training.lr_scheduler);
  app.add_option("--lr_warmup_steps", training.lr_warmup_steps);
  app.add_option("--max_grad_norm", training.max_grad_norm);
  add_choice(app, "--optimizer", training.optimizer);
  app.add_option("--adam_beta1", training.adam_beta1);
  app.add_option("--adam_beta2", training.adam_beta2);
  app.add_option("--adam_weight_decay", training.adam_weight_decay);
  app.add_option("--adam_epsilon", training.adam_epsilon);
  app.add_flag("--use_ema,!--no_use_ema", training.use_ema, "sample from an average of the weights");
  app.add_option("--ema_inv_gamma", training.ema_inv_gamma);
  app.add_option("--ema_power", training.ema_power);
  app.add_option("--ema_max_decay", training.ema_max_decay);
  app.add_option("--post_hoc_ema_sigma_rels", training.post_hoc_ema_sigma_rels,
                 "relative widths of averages whose snapshots reconstruct_ema reads, such as 0.05 0.1");
  app.add_option("--post_hoc_ema_steps", training.post_hoc_ema_steps);
  app.add_option("--freeze", training.freeze, "patterns of parameter names that are not trained");
  app.add_option("--train_only", training.train_only, "patterns of the only parameter names that are");
  app.add_flag("--deterministic", training.deterministic);
  app.add_option("--dataloader_num_workers", training.dataloader_num_workers);
  app.add_option("--cpu_data_parallel", training.cpu_data_parallel,
                 "parts that a batch is cut into on the CPU, one thread each");

  app.option_defaults()->group("Output");
  app.add_option("--checkpointing_steps", training.checkpointing_steps);
  app.add_option("--checkpoints_total_limit", training.checkpoints_total_limit);
  app.add_option("--resume_from_checkpoint", training.resume_from_checkpoint,
                 "latest, or the name of a checkpoint");
  app.add_option("--background_checkpoints", training.background_checkpoints,
                 "false: the training waits while a checkpoint is written");
  app.add_option("--validation_steps", training.validation_steps,
                 "a picture in previews/ every so many steps");
  app.add_option("--logging_steps", training.logging_steps);
  app.add_option("--tensorboard", training.tensorboard, "event files in logs/");
  app.add_option("--report", training.report, "report.html at the end");
  app.add_option("--eval_batch_size", settings.eval_batch_size,
                 "samples drawn at the end; the first 64 make the picture")
      ->check(CLI::PositiveNumber);
  parse_or_exit(app, argc, argv);

  settings.device = torch::Device(device);
  if (!settings.device.is_cpu() && app.count("--cpu_data_parallel") == 0) training.cpu_data_parallel = 1;
  check_flags(app, settings);
  if (!model_config.empty()) read_model(model_config, settings);
  // Said, so that the Trainer does not warn of labels that nobody takes.
  if (!settings.is_class_conditional()) settings.task.class_conditional = false;
  resolution = choose_resolution(settings, resolution);
  settings.model.sample_size = resolution;
  training.resolution = resolution;
  if (training.max_train_steps && app.count("--num_epochs") > 0 && app.count("--max_train_steps") == 0)
    training.max_train_steps.reset();
  return settings;
}

// Trains a diffusion model on the latents of a frozen autoencoder (Rombach et al. 2022): without
// conditioning, or with captions, class labels or images. Writes a pipeline folder.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <diffusers/core/logging.h>
#include <diffusers/io/files.h>
#include <diffusers/io/image.h>
#include <diffusers/io/model_file.h>
#include <diffusers/models/state_dict.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/pipelines/latent_diffusion_pipeline.h>
#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>

#include "../program.h"
#include "../stoppable_preview.h"
#include "../train_flags.h"
#include "../training_data.h"
#include "../training_group.h"
#include "../unconditional_image_generation/evaluation.h"
#include "latent_flags.h"

using namespace diffusers;

namespace {

constexpr int64_t kEvaluationBatch = 100;
constexpr int64_t kSampleRows = 8;

using UNetHandle = std::variant<UNet2DModel, UNet2DConditionModel>;

/// The folder of the autoencoder in `--vae`.
std::string autoencoder_folder(const std::string& path) {
  for (const char* part : {"", "vae", "vqvae"}) {
    std::string folder = *part == '\0' ? path : join_path(path, part);
    if (file_exists(join_path(folder, "config.json"))) return folder;
  }
  throw FileError("--vae: " + path + " has no config.json, nor vae/config.json or vqvae/config.json");
}

/// True if the text of a config.json has this class name.
bool is_config_of(const std::string& config, const std::string& class_name) {
  return config.find("\"" + class_name + "\"") != std::string::npos;
}

LatentEncoder open_encoder(const LatentSettings& settings, at::Device device) {
  const std::string folder = autoencoder_folder(settings.vae);
  const LatentEncoderOptions options{.scale_by_std = settings.scale_by_std};
  const std::string config = read_model_file(folder, "config.json");
  if (is_config_of(config, "VQModel")) return {VQModel::from_pretrained(folder, {.device = device}), options};
  if (is_config_of(config, "AutoencoderKL"))
    return {AutoencoderKL::from_pretrained(folder, {.device = device}), options};
  throw ConfigError("--vae: " + folder +
                    "/config.json is of another class, expected AutoencoderKL or VQModel");
}

int64_t image_side(const LatentEncoder& encoder) {
  return encoder.has_posterior() ? encoder.vae()->config().sample_size.values().front()
                                 : encoder.vqvae()->config().sample_size.values().front();
}

ImageFolderOptions folder_options(const LatentSettings& settings, int64_t channels) {
  return {.resolution = *settings.training.resolution,
          .caption_column = settings.caption_column,
          .conditioning_image_column = settings.conditioning_image_column,
          .mask_column = settings.mask_column,
          .channels = channels};
}

/// Channels that the model receives behind the latents.
int64_t extra_channels(const LatentSettings& settings, const LatentEncoder& encoder) {
  if (!settings.concatenates()) return 0;
  if (settings.inpaints()) return encoder.latent_channels() + 1;
  return settings.concat_input == ConcatInput::kEncodedImages ? encoder.latent_channels()
                                                              : encoder.in_channels();
}

/// The program's model: three levels, attention at the lower two.
UNetHandle default_unet(const LatentSettings& settings, const LatentEncoder& encoder, int64_t side,
                        int64_t classes, int64_t text_width) {
  const int64_t in_channels = encoder.latent_channels() + extra_channels(settings, encoder);
  if (side % 4 != 0)
    throw ConfigError("--resolution is " + std::to_string(*settings.training.resolution) +
                      ", whose latents have a side of " + std::to_string(side) +
                      ", expected a multiple of 4, since the model halves them twice; "
                      "--model_config_name_or_path sets another model");
  if (settings.attends())
    return UNet2DConditionModel(
        {.sample_size = side,
         .in_channels = in_channels,
         .out_channels = encoder.latent_channels(),
         .down_block_types = {"DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"},
         .up_block_types = {"CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"},
         .block_out_channels = {128, 256, 256},
         .layers_per_block = 2,
         .cross_attention_dim = text_width,
         .attention_head_dim = 8});
  UNet2DModelConfig config{.sample_size = side,
                           .in_channels = in_channels,
                           .out_channels = encoder.latent_channels(),
                           .down_block_types = {"DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"},
                           .up_block_types = {"AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"},
                           .block_out_channels = {128, 256, 256},
                           .layers_per_block = 2,
                           .attention_head_dim = 32};
  // The last class stands for "no class".
  if (settings.conditioning_key == ConditioningKey::kAdm) config.num_class_embeds = classes + 1;
  return UNet2DModel(config);
}

UNetHandle make_unet(const LatentSettings& settings, const LatentEncoder& encoder, int64_t side,
                     int64_t classes, int64_t text_width) {
  const std::string& path = settings.model_config_name_or_path;
  if (path.empty()) return default_unet(settings, encoder, side, classes, text_width);
  const std::string text = folder_exists(path) ? read_model_file(path, "config.json") : read_text_file(path);
  if (is_config_of(text, "UNet2DConditionModel")) return UNet2DConditionModel::from_config(text);
  return UNet2DModel::from_config(text);
}

/// Everything that the training and the previews share.
class LatentTraining {
 public:
  explicit LatentTraining(LatentSettings settings)
      : settings_(std::move(settings)),
        device_(settings_.device),
        encoder_(open_encoder(settings_, device_)) {
    TrainingConfig& training = settings_.training;
    if (!training.resolution) training.resolution = image_side(encoder_);
    if (training.seed) manual_seed(static_cast<uint64_t>(*training.seed));
    data_ = open_train_images(settings_.data, folder_options(settings_, encoder_.in_channels()));
    const int64_t classes = data_.class_count();
    if (settings_.conditioning_key == ConditioningKey::kAdm && classes == 0)
      throw ConfigError("--conditioning_key adm needs class labels, but " + settings_.data.flag() +
                        (settings_.data.shards.is_given()
                             ? "; expected their number, --num_classes"
                             : " has no sub-folders with images, whose names would be the classes"));
    options_ = task_options();
    const int64_t side = *training.resolution / encoder_.downsampling_factor();
    const int64_t width = options_.text_encoder.is_empty() ? 0 : options_.text_encoder->config().hidden_size;
    unet_ = make_unet(settings_, encoder_, side, classes, width);
    std::visit([&](auto& unet) { unet->to(device_); }, unet_);
    std::printf("%s with %lld parameters on %s, %s, latents %lld x %lld x %lld\n",
                std::visit([](auto& unet) { return unet->class_name(); }, unet_).c_str(),
                static_cast<long long>(std::visit([](auto& unet) { return unet->num_parameters(); }, unet_)),
                device_.str().c_str(), data_.description().c_str(),
                static_cast<long long>(encoder_.latent_channels()), static_cast<long long>(side),
                static_cast<long long>(side));
  }

  TrainingResult train() {
    const auto make_task = [&] {
      const auto trainable = std::visit([](auto& unet) { return make_trainable(unet); }, unet_);
      return std::make_shared<LatentDiffusionTask>(trainable, scheduler(), encoder_, options_);
    };
    // The model and the flags are checked before images are encoded.
    const TrainingConfig config = trainer_config(settings_.training, settings_.data.shards);
    make_task()->configure(config);
    if (!settings_.latent_cache.empty()) {
      std::shared_ptr<const LatentCache> cache;
      in_turn([&] {
        cache = LatentCache::build(settings_.latent_cache, data_.dataset(), encoder_,
                                   {.batch_size = settings_.training.train_batch_size,
                                    .random_flip = settings_.data.random_flip,
                                    .format = settings_.latent_cache_format});
      });
      std::printf("latent cache %s: %lld images encoded\n", settings_.latent_cache.c_str(),
                  static_cast<long long>(cache->encoded_images()));
      options_.cache = cache;
    }
    task_ = make_task();
    Trainer trainer(task_, config, training_group());
    trainer.on_preview([&](const PreviewContext& at) {
      const auto side =
          static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(settings_.eval_batch_size))));
      log_unless_stopped(at, "samples", [&] { return draw(at.stop_requested); }, {.columns = side});
    });
    return data_.train(trainer);
  }

  /// Draws samples.png, with one column for each class, and classifies samples at several guidance scales.
  void evaluate() {
    const int64_t classes = data_.class_count();
    const std::string folder = settings_.training.output_dir + "/";
    LatentDiffusionPipeline pipeline = make_pipeline();
    const auto labels = [&](int64_t count) { return at::arange(count).remainder(classes); };
    save_image_grid(draw_classes(pipeline, labels(kSampleRows * classes), settings_.guidance_scale),
                    folder + "samples.png", {.columns = classes});
    std::printf("samples, one column for each class: %ssamples.png\n", folder.c_str());
    const Tensor asked = labels(settings_.num_evaluation_samples);
    evaluate_guidance(
        [&](double scale) { return draw_classes(pipeline, asked, scale); }, asked, data_.dataset(),
        *open_images(settings_.data, folder_options(settings_, encoder_.in_channels()), Split::kTest),
        classes, folder);
  }

 private:
  DDPMScheduler scheduler() const { return DDPMScheduler(settings_.scheduler); }

  LatentDiffusionTaskOptions task_options() const {
    LatentDiffusionTaskOptions options{.conditioning_key = settings_.conditioning_key,
                                       .concat_input = settings_.concat_input,
                                       .conditioning_dropout_prob = settings_.conditioning_dropout_prob,
                                       .diffusion = settings_.task};
    if (settings_.text_encoder.empty()) return options;
    options.tokenizer = CLIPTokenizer::from_pretrained(settings_.text_encoder, {.subfolder = "tokenizer"});
    options.text_encoder = CLIPTextModel::from_pretrained(settings_.text_encoder,
                                                          {.subfolder = "text_encoder", .device = device_});
    return options;
  }

  /// The autoencoder with the scaling factor of the training.
  PipelineComponent scaled_autoencoder() const {
    const Tensor& scale = task_->encoder().measured_scale();
    if (!scale.defined())
      return encoder_.has_posterior() ? PipelineComponent(encoder_.vae())
                                      : PipelineComponent(encoder_.vqvae());
    const auto rescaled = [&](auto model) {
      auto config = model->config();
      config.scaling_factor = scale.template item<double>();
      decltype(model) copy(config);
      copy->to(device_);
      load_state_dict(copy, state_dict(model));
      return PipelineComponent(copy);
    };
    return encoder_.has_posterior() ? rescaled(encoder_.vae()) : rescaled(encoder_.vqvae());
  }

  LatentDiffusionPipeline make_pipeline() {
    PipelineComponents components{{"vae", scaled_autoencoder()},
                                  {"scheduler", DDIMScheduler::from_config(scheduler().config_json())}};
    components["unet"] = std::visit([](auto& unet) { return PipelineComponent(unet); }, unet_);
    if (options_.tokenizer) {
      components["tokenizer"] = *options_.tokenizer;
      components["text_encoder"] = options_.text_encoder;
    }
    LatentDiffusionPipeline pipeline(std::move(components));
    pipeline.set_progress_bar_config({.disable = true});
    pipeline.set_encodes_conditioning_images(settings_.concat_input == ConcatInput::kEncodedImages);
    return pipeline;
  }

  /// Samples `[N, C, H, W]` in [0, 1] with the conditioning of the first images, drawn with the seed 0.
  Tensor draw(const std::function<bool()>& must_stop) {
    const Batch batch = data_.first(settings_.eval_batch_size);
    const int64_t count = batch.size();
    LatentDiffusionPipelineOptions call{.batch_size = count,
                                        .num_inference_steps = settings_.num_inference_steps,
                                        .guidance_scale = settings_.guidance_scale,
                                        .generator = make_generator(0)};
    if (settings_.conditioning_key == ConditioningKey::kAdm) call.class_labels = batch.class_labels;
    if (settings_.attends()) call.prompt = batch.captions;
    if (settings_.inpaints()) {
      call.image = (batch.images + 1) / 2;
      call.mask_image = batch.masks;
    } else if (settings_.concatenates()) {
      call.conditioning_images = batch.conditioning_images;
    } else {
      call.height = call.width = *settings_.training.resolution;
    }
    call.callback_on_step_end = stop_sampling_if(must_stop);
    return make_pipeline()(call).images;
  }

  /// Samples `[N, C, H, W]` in [0, 1] of these classes, drawn with the seed 0.
  Tensor draw_classes(LatentDiffusionPipeline& pipeline, const Tensor& labels, double guidance_scale) {
    const Generator generator = make_generator(0);
    std::vector<Tensor> images;
    for (const Tensor& part : labels.split(kEvaluationBatch))
      images.push_back(pipeline({.class_labels = part,
                                 .height = settings_.training.resolution,
                                 .width = settings_.training.resolution,
                                 .num_inference_steps = settings_.num_inference_steps,
                                 .guidance_scale = guidance_scale,
                                 .generator = generator})
                           .images);
    return at::cat(images);
  }

  LatentSettings settings_;
  at::Device device_;
  LatentEncoder encoder_;
  TrainImages data_;
  LatentDiffusionTaskOptions options_;
  UNetHandle unet_{UNet2DModel(nullptr)};
  std::shared_ptr<LatentDiffusionTask> task_;
};

int run(int argc, char** argv) {
  LatentSettings settings;
  settings.training.handle_signals = true;
  settings.training.output_dir = "latent-diffusion-model";
  CLI::App app("Trains a diffusion model on the latents of a frozen autoencoder");
  add_latent_flags(app, settings);
  refuse_python_flags(app, argc, argv);
  parse_or_exit(app, argc, argv);
  complete_latent_settings(app, settings);
  LatentTraining job(settings);
  const TrainingResult result = job.train();
  if (result.is_complete && !result.signal && settings.evaluates() && training_group().is_main())
    job.evaluate();
  return exit_code(result);
}

}  // namespace

int main(int argc, char** argv) { return run_program("train_latent_diffusion", run, argc, argv); }

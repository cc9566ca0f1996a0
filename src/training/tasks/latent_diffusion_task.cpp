#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/logging.h>
#include <diffusers/io/files.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/training/latent_diffusion_task.h>

#include <ATen/ATen.h>

#include "core/json.h"
#include "core/require.h"
#include "io/model_index.h"
#include "models/concat_channels.h"

namespace diffusers {
namespace {

constexpr const char* kMeasuredScale = "latent_scaling_factor";

/// The options of the base: class labels are the conditioning of `adm` alone.
DiffusionTaskOptions base_options(const LatentDiffusionTaskOptions& options) {
  DiffusionTaskOptions base = options.diffusion;
  require<ConfigError>(
      !base.class_conditional,
      "class_conditional of the diffusion options is {}, but conditioning_key \"{}\" decides "
      "whether the model receives class labels; leave it unset",
      base.class_conditional.value_or(false), options.conditioning_key.name());
  // For adm, labels are given wherever the model takes them.
  if (!base.conditioning && options.conditioning_key != ConditioningKey::kAdm) base.class_conditional = false;
  return base;
}

std::string class_of_unet(const NamedModule& unet) {
  const std::string config = unet.module->config_json();
  if (config.empty()) return {};
  return parse_json(config, "config_json() of the model").value("_class_name", std::string());
}

}  // namespace

LatentDiffusionTask::LatentDiffusionTask(TrainableDenoiser unet, const Scheduler& scheduler,
                                         LatentEncoder encoder, LatentDiffusionTaskOptions options,
                                         std::string name)
    : DiffusionTask(std::move(unet), scheduler, base_options(options), std::move(name)),
      options_(std::move(options)),
      source_(std::move(encoder), options_.cache),
      fingerprint_(source_.encoder().fingerprint()) {
  check_options();
  check_model();
  if (scheduler.clip_sample().value_or(false))
    warn_once(
        fmt::format("{}: clip_sample is true in the config, so Python's pipelines cut predicted latents "
                    "off at [-1, 1]; set it to false to sample latents",
                    scheduler.class_name()));
}

bool LatentDiffusionTask::attends() const {
  return options_.conditioning_key == ConditioningKey::kCrossattn ||
         options_.conditioning_key == ConditioningKey::kHybrid;
}

bool LatentDiffusionTask::concatenates() const {
  return options_.conditioning_key == ConditioningKey::kConcat ||
         options_.conditioning_key == ConditioningKey::kHybrid;
}

bool LatentDiffusionTask::inpaints() const {
  return concatenates() && options_.concat_input == ConcatInput::kInpainting;
}

void LatentDiffusionTask::check_options() const {
  const std::string_view key = options_.conditioning_key.name();
  const bool has_text = options_.tokenizer.has_value() || !options_.text_encoder.is_empty();
  const bool has_function = static_cast<bool>(options_.diffusion.conditioning);
  const double dropout = options_.conditioning_dropout_prob;
  require<ConfigError>(options_.tokenizer.has_value() == !options_.text_encoder.is_empty(),
                       "there is a tokenizer or a text_encoder without the other; captions need both");
  require<ConfigError>(!has_text || attends(),
                       "a text_encoder is given, but conditioning_key is \"{}\"; expected \"crossattn\" or "
                       "\"hybrid\"",
                       key);
  require<ConfigError>(!has_text || !has_function,
                       "a text_encoder and a conditioning function are given; expected one of them");
  require<ConfigError>(!attends() || has_text || has_function,
                       "conditioning_key is \"{}\", but nothing gives the hidden states; set tokenizer and "
                       "text_encoder, or a conditioning function in the diffusion options",
                       key);
  require<ConfigError>(!has_function || attends() || concatenates(),
                       "a conditioning function is given, but conditioning_key is \"{}\"; expected "
                       "\"crossattn\", \"concat\" or \"hybrid\"",
                       key);
  require<ConfigError>(concatenates() || options_.concat_input == ConcatInput::kConditioningImages,
                       "concat_input is \"{}\", but conditioning_key is \"{}\"; expected \"concat\" or "
                       "\"hybrid\"",
                       options_.concat_input.name(), key);
  require<ConfigError>(dropout >= 0 && dropout < 1,
                       "conditioning_dropout_prob is {}, expected 0 to less than 1", dropout);
  require<ConfigError>(dropout == 0 || attends() || concatenates(),
                       "conditioning_dropout_prob is {}, but conditioning_key is \"{}\"{}", dropout, key,
                       options_.conditioning_key == ConditioningKey::kAdm
                           ? "; class_dropout_prob of the diffusion options drops class labels"
                           : ", so there is nothing to drop");
  const Tensor& unconditional = options_.unconditional_hidden_states;
  require<ConfigError>(!unconditional.defined() || (has_function && attends() && dropout > 0),
                       "unconditional_hidden_states are given, but they are used only with a conditioning "
                       "function, cross-attention and conditioning_dropout_prob above 0");
  require<ConfigError>(!(has_function && attends() && dropout > 0) || unconditional.defined(),
                       "conditioning_dropout_prob is {}, but there are no unconditional_hidden_states that "
                       "replace the dropped ones",
                       dropout);
  require<TensorError>(
      !unconditional.defined() ||
          ((unconditional.dim() == 2 || (unconditional.dim() == 3 && unconditional.size(0) == 1)) &&
           at::isFloatingType(unconditional.scalar_type())),
      "unconditional_hidden_states are {}, expected floating [L, D] or [1, L, D]", describe(unconditional));
}

void LatentDiffusionTask::check_model() const {
  const DenoiserInfo& info = model().info;
  const std::string_view key = options_.conditioning_key.name();
  require<ConfigError>(options_.conditioning_key != ConditioningKey::kAdm || info.takes_class_labels,
                       "conditioning_key is \"adm\", but the model takes no class labels; set its "
                       "num_class_embeds");
  require<ConfigError>(!attends() || info.takes_encoder_hidden_states,
                       "conditioning_key is \"{}\", but the model takes no encoder_hidden_states; expected a "
                       "UNet2DConditionModel",
                       key);
  const LatentEncoder& encoder = source_.encoder();
  int64_t extra = 0;
  if (concatenates()) {
    // The number of channels of images is not known before the first batch.
    if (inpaints()) {
      extra = encoder.latent_channels() + 1;
    } else if (options_.concat_input == ConcatInput::kEncodedImages) {
      extra = encoder.latent_channels();
    } else if (info.in_channels) {
      extra = std::max<int64_t>(*info.in_channels - encoder.latent_channels(), 1);
    }
    if (options_.diffusion.conditioning && info.in_channels)
      extra = std::max<int64_t>(*info.in_channels - encoder.latent_channels(), 0);
  }
  encoder.check_denoiser(info, extra, trained().front().name);

  if (options_.text_encoder.is_empty()) return;
  const auto* unet = dynamic_cast<const UNet2DConditionModelImpl*>(&model().saved->module());
  if (unet == nullptr || unet->config().encoder_hid_dim) return;
  const int64_t width = options_.text_encoder->config().hidden_size;
  for (const int64_t expected : unet->config().cross_attention_dim.values())
    require<ConfigError>(expected == width,
                         "cross_attention_dim of the model is {}, but hidden_size of the text encoder is {}; "
                         "expected equal widths",
                         expected, width);
}

std::vector<NamedModule> LatentDiffusionTask::frozen() const {
  std::vector<NamedModule> modules{source_.encoder().frozen_module()};
  if (!options_.text_encoder.is_empty())
    modules.push_back({"text_encoder", make_saved_module(options_.text_encoder), /*is_averaged=*/false});
  return modules;
}

BatchSplit LatentDiffusionTask::batch_split() const {
  BatchSplit split = DiffusionTask::batch_split();
  split.downsampling_factor = source_.encoder().downsampling_factor();
  return split;
}

std::string LatentDiffusionTask::process_obstacle() const {
  if (!source_.encoder().options().scale_by_std) return DiffusionTask::process_obstacle();
  return "scale_by_std measures the scale on the whole first batch; give scaling_factor in the config of the "
         "autoencoder, or train in one process";
}

void LatentDiffusionTask::check_batch(const Batch& batch) {
  DiffusionTask::check_batch(batch);
  source_.check_batch(batch, inpaints());
  require<ConfigError>(options_.conditioning_key != ConditioningKey::kAdm || batch.class_labels.defined(),
                       "conditioning_key is \"adm\", but the dataset has no class labels");
  if (options_.tokenizer)
    require<TensorError>(static_cast<int64_t>(batch.captions.size()) == batch.images.size(0),
                         "the dataset gives {} captions for {} images, but conditioning_key \"{}\" embeds a "
                         "caption of each image",
                         batch.captions.size(), batch.images.size(0), options_.conditioning_key.name());
  if (!concatenates() || inpaints() || options_.diffusion.conditioning) return;
  const Tensor& images = batch.conditioning_images;
  require<TensorError>(images.defined() && images.dim() == 4 && images.size(0) == batch.images.size(0),
                       "the conditioning images of the dataset are {}, expected one for each of {} images: "
                       "conditioning_key is \"{}\"",
                       describe(images), batch.images.size(0), options_.conditioning_key.name());
  if (options_.concat_input == ConcatInput::kEncodedImages) {
    source_.encoder().check_images(images, "the conditioning images of the dataset");
    require<TensorError>(images.sizes().slice(2) == batch.images.sizes().slice(2),
                         "the conditioning images of the dataset are {}, the images {}; expected equal sizes",
                         describe(images), describe(batch.images));
    return;
  }
  const int64_t channels = images.size(1) + source_.encoder().latent_channels();
  require<ConfigError>(!model().info.in_channels || *model().info.in_channels == channels,
                       "in_channels of the {} is {}, but it receives {} channels: {} of the autoencoder's "
                       "latents and {} of the conditioning images; expected in_channels {}",
                       trained().front().name, model().info.in_channels.value_or(0), channels,
                       source_.encoder().latent_channels(), images.size(1), channels);
}

void LatentDiffusionTask::begin_step(const StepContext& context) {
  DiffusionTask::begin_step(context);
  source_.begin_step(context);
  dropout_rows_.begin_step(context);
}

Tensor LatentDiffusionTask::encode(const Batch& batch) {
  DiffusionTask::encode(batch);  // checks the resolution
  LatentSource::Latents latents = source_.next(batch, inpaints());
  masked_ = std::move(latents.masked_images);
  return latents_ = std::move(latents.images);
}

Tensor LatentDiffusionTask::encode_for_validation(const Batch& batch, const Generator& generator) {
  DiffusionTask::encode(batch);
  LatentSource::Latents latents = source_.encode(batch, generator, inpaints());
  masked_ = std::move(latents.masked_images);
  return latents_ = std::move(latents.images);
}

DiffusionTask::Draw LatentDiffusionTask::draw(const Tensor& x0) {
  Draw drawn = DiffusionTask::draw(x0);
  const double probability = options_.conditioning_dropout_prob;
  if (probability == 0) return drawn;
  dropout_rows_.next(x0, [&](at::IntArrayRef shape) {
    step_dropped_ = at::rand({shape[0]}, step_context().generator,
                             x0.options().dtype(at::kFloat).requires_grad(false)) < probability;
  });
  dropped_ = dropout_rows_.of(step_dropped_);
  return drawn;
}

Tensor LatentDiffusionTask::embed(const std::vector<std::string>& captions, const Tensor& like) const {
  const at::NoGradGuard no_grad;
  const int64_t length = std::min(options_.tokenizer->model_max_length(),
                                  options_.text_encoder->config().max_position_embeddings);
  const Tensor ids = (*options_.tokenizer)(
                         captions, {.padding = Padding::kMaxLength, .truncation = true, .max_length = length})
                         .input_ids;
  for (const std::string& caption : captions)
    if (static_cast<int64_t>(options_.tokenizer->encode(caption).size()) > length)
      warn_once(
          fmt::format("a caption has more than {} tokens, the most that the text encoder takes; what is "
                      "behind them is cut off",
                      length));
  return options_.text_encoder->forward(ids.to(like.device(), /*non_blocking=*/true))
      .last_hidden_state.to(like.scalar_type());
}

Tensor LatentDiffusionTask::concat_channels(const Batch& batch) const {
  if (inpaints()) return inpainting_channels(batch.masks, masked_);
  if (options_.concat_input == ConcatInput::kConditioningImages)
    return resized_conditioning_images(batch.conditioning_images, latents_);
  const LatentEncoder& encoder = source_.encoder();
  const Tensor images = batch.conditioning_images.to(batch.images.scalar_type()) * 2 - 1;
  return encoder.mode(encoder.encode_distribution(images));
}

Conditioning LatentDiffusionTask::given_conditioning(const Batch& batch) {
  Conditioning given = DiffusionTask::conditioning(batch);
  if (options_.tokenizer) given.encoder_hidden_states = embed(batch.captions, latents_);
  if (concatenates() && !given.extra_channels.defined()) given.extra_channels = concat_channels(batch);
  require<ConfigError>(!attends() || given.encoder_hidden_states.defined(),
                       "conditioning_key is \"{}\", but the conditioning function gives no "
                       "encoder_hidden_states",
                       options_.conditioning_key.name());
  return given;
}

Conditioning LatentDiffusionTask::drop(Conditioning given, const Tensor& is_dropped) const {
  if (attends()) {
    const Tensor& states = given.encoder_hidden_states;
    require<TensorError>(unconditional_.size(1) == states.size(1) && unconditional_.size(2) == states.size(2),
                         "the unconditional hidden states are {}, but the hidden states are {}; expected the "
                         "same length and width",
                         describe(unconditional_), describe(states));
    given.encoder_hidden_states =
        at::where(is_dropped.view({-1, 1, 1}), unconditional_.to(states.scalar_type()), states);
  }
  if (given.extra_channels.defined())
    given.extra_channels = given.extra_channels.masked_fill(is_dropped.view({-1, 1, 1, 1}), 0);
  return given;
}

Conditioning LatentDiffusionTask::conditioning(const Batch& batch) {
  const Tensor is_dropped = std::exchange(dropped_, Tensor());
  Conditioning given = given_conditioning(batch);
  if (!is_dropped.defined()) return given;
  if (attends() && !unconditional_.defined()) {
    // The text encoder is frozen, so its answer to the empty text stays the same.
    const Tensor& states = options_.unconditional_hidden_states;
    unconditional_ = options_.tokenizer
                         ? embed({""}, latents_)
                         : states.to(latents_.options()).view({1, states.size(-2), states.size(-1)});
  }
  return drop(std::move(given), is_dropped);
}

TensorMap LatentDiffusionTask::state() const {
  TensorMap state = DiffusionTask::state();
  if (const Tensor& scale = source_.encoder().measured_scale(); scale.defined())
    state.insert(kMeasuredScale, scale);
  return state;
}

void LatentDiffusionTask::load_state(const TensorMap& state) {
  TensorMap rest = state;
  if (const auto scale = rest.find(kMeasuredScale); scale != rest.end()) {
    source_.encoder().set_measured_scale(scale->second);
    rest.erase(kMeasuredScale);
  }
  DiffusionTask::load_state(rest);
}

std::string LatentDiffusionTask::config_json() const {
  Json json = parse_json(DiffusionTask::config_json(), "config_json() of the task");
  json["_class_name"] = "LatentDiffusionTask";
  json["conditioning_key"] = std::string(options_.conditioning_key.name());
  json["concat_input"] = std::string(options_.concat_input.name());
  json["conditioning_dropout_prob"] = options_.conditioning_dropout_prob;
  json["scale_by_std"] = source_.encoder().options().scale_by_std;
  json["autoencoder_sha256"] = fingerprint_;
  return dump_json(json);
}

std::string LatentDiffusionTask::pipeline_class() const {
  // Python's pipelines multiply by scaling_factor alone.
  const AutoencoderKL vae = source_.encoder().vae();
  if (!vae.is_empty() && (vae->config().shift_factor || !vae->config().latents_mean.empty()))
    return "LatentDiffusionPipeline";
  const std::string unet = class_of_unet(trained().front());
  if (options_.conditioning_key == ConditioningKey::kNone && unet == "UNet2DModel") return "LDMPipeline";
  if (options_.conditioning_key == ConditioningKey::kCrossattn && options_.tokenizer &&
      unet == "UNet2DConditionModel" && source_.encoder().has_posterior())
    return "StableDiffusionPipeline";
  return "LatentDiffusionPipeline";
}

void LatentDiffusionTask::save_pipeline_files(const std::filesystem::path& output_dir) const {
  const NamedModule& unet = trained().front();
  ModelIndex index{.class_name = pipeline_class()};
  const std::string vae = index.class_name == "LDMPipeline" ? "vqvae" : "vae";
  source_.encoder().save_pretrained(output_dir / vae);
  index.components = {{vae, source_.encoder().has_posterior() ? "AutoencoderKL" : "VQModel"},
                      {unet.name, class_of_unet(unet)},
                      {"scheduler", sampling_scheduler().class_name()}};
  if (options_.tokenizer) {
    options_.tokenizer->save_pretrained(output_dir / "tokenizer");
    options_.text_encoder->save_pretrained(output_dir / "text_encoder");
    index.components["tokenizer"] = "CLIPTokenizer";
    index.components["text_encoder"] = "CLIPTextModel";
  }
  if (index.class_name == "StableDiffusionPipeline") {
    for (const char* absent : {"feature_extractor", "image_encoder", "safety_checker"})
      index.components[absent] = "";
    index.settings["requires_safety_checker"] = false;
  }
  if (index.class_name == "LatentDiffusionPipeline") {
    if (!options_.tokenizer) index.components["tokenizer"] = index.components["text_encoder"] = "";
    index.settings["encodes_conditioning_images"] =
        concatenates() && options_.concat_input == ConcatInput::kEncodedImages;
  }
  // A model that the library does not know is no component that a pipeline can load.
  if (!index.components.at(unet.name).empty()) write_model_index(index, output_dir);
}

}  // namespace diffusers

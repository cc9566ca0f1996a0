#include "training/tasks/text_to_image_parts.h"

#include <algorithm>
#include <utility>

#include <diffusers/core/logging.h>
#include <diffusers/models/denoiser.h>
#include <diffusers/schedulers/ddpm_scheduler.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "text/prompt_encoding.h"
#include "training/objective/scheduler_facts.h"
#include "training/tasks/task_inputs.h"

namespace diffusers {
inline namespace internal {
namespace {

/// Numbers of an image that Stable Diffusion XL is told: original size, crop and target size.
constexpr int64_t kTimeIds = 6;

/// Copies a tensor of the host. The host does not wait for the device.
Tensor uploaded(const Tensor& host, at::Device device) {
  if (device.is_cpu()) return host;
  return device.is_cuda() ? host.pin_memory().to(device, /*non_blocking=*/true) : host.to(device);
}

void check_tokenizer(const CLIPTokenizer& tokenizer, const CLIPTextConfig& text, const char* name) {
  require<ConfigError>(
      tokenizer.size() <= text.vocab_size,
      "the tokenizer of the {} has {} tokens, but its vocab_size is {}; expected a tokenizer "
      "and a text encoder of one model",
      name, tokenizer.size(), text.vocab_size);
  require<ConfigError>(
      tokenizer.model_max_length() <= text.max_position_embeddings,
      "model_max_length of the tokenizer is {}, but max_position_embeddings of the {} is {}; "
      "expected at most that",
      tokenizer.model_max_length(), name, text.max_position_embeddings);
}

/// Width of the text embeddings that the UNet takes.
void check_text_width(const UNet2DConditionModelConfig& unet, int64_t width, const char* encoders) {
  if (unet.encoder_hid_dim) {
    require<ConfigError>(*unet.encoder_hid_dim == width,
                         "encoder_hid_dim of the unet is {}, but {} have the width {}; expected equal widths",
                         *unet.encoder_hid_dim, encoders, width);
    return;
  }
  for (const int64_t expected : unet.cross_attention_dim.values())
    require<ConfigError>(expected == width,
                         "cross_attention_dim of the unet is {}, but {} have the width {}; expected the UNet "
                         "and the text encoder of one model",
                         expected, encoders, width);
}

void check_xl(const TextToImageModels& models) {
  const UNet2DConditionModelConfig& unet = models.unet->config();
  const CLIPTextConfig& second = models.text_encoder_2->config();
  check_tokenizer(*models.tokenizer_2, second, "text_encoder_2");
  check_text_width(unet, models.text_encoder->config().hidden_size + second.hidden_size,
                   "the hidden states of text_encoder and text_encoder_2 together");
  const int64_t features =
      second.projection_dim.value_or(0) + kTimeIds * unet.addition_time_embed_dim.value_or(0);
  require<ConfigError>(
      unet.projection_class_embeddings_input_dim == features,
      "projection_class_embeddings_input_dim of the unet is {}, but projection_dim of text_encoder_2 and {} "
      "time ids of addition_time_embed_dim {} make {}",
      unet.projection_class_embeddings_input_dim.value_or(0), kTimeIds,
      unet.addition_time_embed_dim.value_or(0), features);
}

/// Mask of the attention, `[B, 1, L, L]` bool: each token attends to those before it that `attended` marks.
/// The encoder would make the same of `attended`, but reads it on the host.
Tensor causal_mask(const Tensor& attended) {
  const int64_t length = attended.size(1);
  const Tensor mask = attended.to(at::kBool);
  return at::ones({length, length}, mask.options())
      .tril()
      .view({1, 1, length, length})
      .logical_and(mask.view({-1, 1, 1, length}));
}

}  // namespace

TextToImageModels complete_models(TextToImageModels models, const char* task) {
  const auto require_component = [&](bool is_there, const char* name) {
    require<ConfigError>(is_there, "{}: the component \"{}\" is missing", task, name);
  };
  require_component(!models.text_encoder.is_empty(), "text_encoder");
  require_component(!models.vae.is_empty(), "vae");
  require_component(!models.unet.is_empty(), "unet");
  require_component(models.scheduler.has_value(), "scheduler");
  if (models.is_xl()) {
    require_component(models.tokenizer_2.has_value(), "tokenizer_2");
    require_component(!models.text_encoder_2.is_empty(), "text_encoder_2");
  } else {
    require<ConfigError>(!models.tokenizer_2 && models.text_encoder_2.is_empty(),
                         "{}: tokenizer_2 or text_encoder_2 is given, but addition_embed_type of the unet is "
                         "not \"text_time\"; expected a UNet of Stable Diffusion XL",
                         task);
  }
  return models;
}

std::unique_ptr<Scheduler> training_scheduler(const TextToImageModels& models, const char* task) {
  complete_models(models, task);
  const Scheduler& scheduler = *models.scheduler;
  if (scheduler.class_name() == "DDPMScheduler" || !variance_preserving_schedule(scheduler))
    return scheduler.clone();
  return std::make_unique<DDPMScheduler>(DDPMScheduler::from_config(scheduler.config_json()));
}

TextToImageParts::TextToImageParts(const TextToImageModels& models, bool trains_text_encoders,
                                   double proportion_empty_prompts, int64_t extra_channels)
    : models_(models),
      encoder_(models.vae),
      is_xl_(models.is_xl()),
      is_inpainting_(models.is_inpainting()),
      trains_text_encoders_(trains_text_encoders),
      proportion_empty_prompts_(proportion_empty_prompts) {
  require<ConfigError>(proportion_empty_prompts >= 0 && proportion_empty_prompts <= 1,
                       "proportion_empty_prompts is {}, expected 0 to 1", proportion_empty_prompts);
  encoder_.check_denoiser(denoiser_info(models_.unet),
                          is_inpainting_ ? encoder_.latent_channels() + 1 : extra_channels);
  check_tokenizer(models_.tokenizer, models_.text_encoder->config(), "text_encoder");
  if (is_xl_) {
    check_xl(models_);
  } else {
    check_text_width(models_.unet->config(), models_.text_encoder->config().hidden_size,
                     "the hidden states of text_encoder");
  }
}

std::vector<NamedModule> TextToImageParts::text_encoders() const {
  std::vector<NamedModule> modules = {
      {"text_encoder", make_saved_module(models_.text_encoder), /*is_averaged=*/false}};
  if (is_xl_)
    modules.push_back({"text_encoder_2", make_saved_module(models_.text_encoder_2), /*is_averaged=*/false});
  return modules;
}

void TextToImageParts::begin_step(const StepContext& context) {
  context_ = context;
  posterior_rows_.begin_step(context);
  dropout_rows_.begin_step(context);
}

void TextToImageParts::check_batch(const Batch& batch) {
  encoder_.check_images(batch.images);
  const int64_t size = batch.images.size(0);
  require<ConfigError>(static_cast<int64_t>(batch.captions.size()) == size,
                       "the dataset gives {} captions for {} images, expected one for each image; "
                       "ImageFolder reads them from the column caption_column of metadata.jsonl",
                       batch.captions.size(), size);
  const Tensor& masks = batch.masks;
  if (is_inpainting_) {
    const std::vector<int64_t> expected = {size, 1, batch.images.size(2), batch.images.size(3)};
    require<ConfigError>(masks.defined(),
                         "the unet has {} input channels, so it is trained with masks, but the dataset gives "
                         "none; ImageFolder reads them from the column mask_column",
                         models_.unet->config().in_channels);
    require<TensorError>(masks.sizes() == expected && at::isFloatingType(masks.scalar_type()),
                         "masks are {}, expected a floating tensor {}, the size of the images",
                         describe(masks), shape_string(expected));
  } else if (masks.defined() && !std::exchange(has_warned_of_masks_, true)) {
    log_message(LogLevel::kWarning,
                fmt::format("the dataset has masks, but the unet has {} input channels, so they are not "
                            "used; an inpainting UNet has {}",
                            models_.unet->config().in_channels, 2 * encoder_.latent_channels() + 1));
  }
  const auto check_pairs = [&](const char* name, const Tensor& pairs) {
    require<TensorError>(
        !is_xl_ || !pairs.defined() || (pairs.dim() == 2 && pairs.size(0) == size && pairs.size(1) == 2),
        "{} are {}, expected [{}, 2]", name, describe(pairs), size);
  };
  check_pairs("original_sizes", batch.original_sizes);
  check_pairs("crop_top_lefts", batch.crop_top_lefts);
}

Tensor TextToImageParts::encode(const Batch& batch, const std::optional<Generator>& validation) {
  const Tensor& images = images_of(batch, resolution_);
  const LatentDistribution posterior = encoder_.encode_distribution(images);
  Tensor noise, masked_noise;
  if (validation) {
    noise = at::randn(posterior.mean.sizes(), validation, posterior.mean.options());
    if (is_inpainting_)
      masked_noise = at::randn(posterior.mean.sizes(), validation, posterior.mean.options());
  } else {
    posterior_rows_.next(posterior.mean, [&](at::IntArrayRef shape) {
      posterior_noise_ = at::randn(shape, context_.generator, posterior.mean.options());
      if (is_inpainting_) masked_noise_ = at::randn(shape, context_.generator, posterior.mean.options());
    });
    noise = posterior_rows_.of(posterior_noise_);
    if (is_inpainting_) masked_noise = posterior_rows_.of(masked_noise_);
  }
  if (is_inpainting_) extra_channels_ = masked_channels(batch, images, masked_noise);
  return encoder_.sample(posterior, noise);
}

Tensor TextToImageParts::masked_channels(const Batch& batch, const Tensor& images,
                                         const Tensor& noise) const {
  const Tensor masked = images * batch.masks.lt(0.5).to(images.scalar_type());
  const Tensor latents = encoder_.sample(encoder_.encode_distribution(masked), noise);
  const Tensor mask = at::upsample_nearest2d(batch.masks, {latents.size(2), latents.size(3)});
  return at::cat({mask.to(latents.scalar_type()), latents}, 1);
}

void TextToImageParts::draw_dropped(const Tensor& x0) {
  if (proportion_empty_prompts_ == 0) return;
  dropout_rows_.next(x0, [&](at::IntArrayRef shape) {
    step_dropped_ =
        at::rand({shape[0]}, context_.generator, x0.options().dtype(at::kFloat)) < proportion_empty_prompts_;
  });
  dropped_ = dropout_rows_.of(step_dropped_);
}

void TextToImageParts::warn_of_truncation(const CLIPTokenizer& tokenizer, const Batch& batch,
                                          const Tensor& attended) {
  const int64_t length = attended.size(1);
  for (std::size_t i = 0; i < batch.captions.size() && !has_warned_of_truncation_; ++i) {
    // A full row is the only one that can be cut.
    if (attended[static_cast<int64_t>(i)][length - 1].item<int64_t>() == 0) continue;
    const auto removed = truncated_part(tokenizer, batch.captions[i], length);
    if (!removed) continue;
    has_warned_of_truncation_ = true;
    log_message(LogLevel::kWarning,
                fmt::format("the text encoder takes {} tokens; this part of a caption was cut off, and other "
                            "captions may be cut without a warning: {}",
                            length, *removed));
  }
}

Tensor TextToImageParts::token_ids(const CLIPTokenizer& tokenizer, const Batch& batch, const Tensor& dropped,
                                   Tensor& empty_ids, Tensor* attention_mask) {
  const int64_t length = tokenizer.model_max_length();
  const BatchEncoding tokens = tokenize_prompts(tokenizer, batch.captions, length);
  if (!has_warned_of_truncation_) warn_of_truncation(tokenizer, batch, tokens.attention_mask);
  const at::Device device = batch.images.device();
  Tensor ids = uploaded(tokens.input_ids, device);
  if (attention_mask != nullptr) *attention_mask = uploaded(tokens.attention_mask, device);
  if (!dropped.defined()) return ids;
  const Tensor is_dropped = dropped.unsqueeze(1);
  if (!empty_ids.defined() || empty_ids.device() != device)
    empty_ids = tokenize_prompts(tokenizer, std::string(), length).input_ids.to(device);
  if (attention_mask != nullptr) {
    // The begin and the end token of "".
    const Tensor empty_mask = at::arange(length, ids.options()).lt(2).to(at::kLong).unsqueeze(0);
    *attention_mask = at::where(is_dropped, empty_mask, *attention_mask);
  }
  return at::where(is_dropped, empty_ids, ids);
}

void TextToImageParts::encode_captions(const Batch& batch, const Tensor& dropped,
                                       Conditioning& conditioning) {
  const bool uses_mask = !is_xl_ && models_.text_encoder->use_attention_mask();
  Tensor attended;
  const Tensor ids =
      token_ids(models_.tokenizer, batch, dropped, empty_ids_, uses_mask ? &attended : nullptr);
  Tensor ids_2;
  if (is_xl_) ids_2 = token_ids(*models_.tokenizer_2, batch, dropped, empty_ids_2_, nullptr);

  const at::AutoGradMode with_grad(trains_text_encoders_ && at::GradMode::is_enabled());
  if (!is_xl_) {
    conditioning.encoder_hidden_states =
        encode_tokens(models_.text_encoder, ids, uses_mask ? causal_mask(attended) : attended);
    return;
  }
  const PooledPromptEmbeds embeds =
      encode_tokens_xl(models_.text_encoder, models_.text_encoder_2, ids, ids_2);
  conditioning.encoder_hidden_states = embeds.hidden_states;
  conditioning.added_cond_kwargs.text_embeds = embeds.pooled;
}

void TextToImageParts::find_captions(const Batch& batch, const Tensor& dropped, Conditioning& conditioning) {
  const at::NoGradGuard no_grad;
  const auto encode = [&](const std::string& caption) {
    Batch one{.images = batch.images.slice(0, 0, 1)};
    one.captions = {caption};
    Conditioning encoded;
    encode_captions(one, {}, encoded);
    return PooledPromptEmbeds{.hidden_states = encoded.encoder_hidden_states,
                              .pooled = encoded.added_cond_kwargs.text_embeds};
  };
  const at::Device device = batch.images.device();
  const PooledPromptEmbeds found = text_cache_.get(batch.captions, encode);
  conditioning.encoder_hidden_states = uploaded(found.hidden_states, device);
  if (is_xl_) conditioning.added_cond_kwargs.text_embeds = uploaded(found.pooled, device);
  if (!dropped.defined()) return;

  const PooledPromptEmbeds empty = text_cache_.get({std::string()}, encode);
  const auto replace_dropped = [&](Tensor& rows, const Tensor& empty_row, at::IntArrayRef shape) {
    rows = at::where(dropped.view(shape), uploaded(empty_row, device), rows);
  };
  replace_dropped(conditioning.encoder_hidden_states, empty.hidden_states, {-1, 1, 1});
  if (is_xl_) replace_dropped(conditioning.added_cond_kwargs.text_embeds, empty.pooled, {-1, 1});
}

Tensor TextToImageParts::time_ids(const Batch& batch) const {
  const int64_t size = batch.images.size(0);
  const Tensor target =
      at::tensor(std::vector<int64_t>{batch.images.size(2), batch.images.size(3)}, at::kLong)
          .view({1, 2})
          .expand({size, 2});
  const Tensor sizes = batch.original_sizes.defined() ? batch.original_sizes.to(at::kLong) : target;
  const Tensor crops =
      batch.crop_top_lefts.defined() ? batch.crop_top_lefts.to(at::kLong) : at::zeros({size, 2}, at::kLong);
  return at::cat({sizes, crops, target}, 1);
}

Conditioning TextToImageParts::conditioning(const Batch& batch, Conditioning given) {
  const Tensor dropped = std::exchange(dropped_, {});
  if (caches_text_embeddings_) {
    find_captions(batch, dropped, given);
  } else {
    encode_captions(batch, dropped, given);
  }
  if (is_inpainting_) given.extra_channels = std::exchange(extra_channels_, {});
  // The dtype of the images is that of the trained weights.
  const at::ScalarType dtype = batch.images.scalar_type();
  given.encoder_hidden_states = given.encoder_hidden_states.to(dtype);
  if (is_xl_) {
    given.added_cond_kwargs.text_embeds = given.added_cond_kwargs.text_embeds.to(dtype);
    given.added_cond_kwargs.time_ids = uploaded(time_ids(batch).to(dtype), batch.images.device());
  }
  return given;
}

}  // namespace internal
}  // namespace diffusers

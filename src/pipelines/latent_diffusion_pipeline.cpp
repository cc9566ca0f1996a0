#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include <diffusers/core/config_overrides.h>
#include <diffusers/core/error.h>
#include <diffusers/core/logging.h>
#include <diffusers/pipelines/guidance.h>
#include <diffusers/pipelines/inference_guard.h>
#include <diffusers/pipelines/latent_diffusion_pipeline.h>
#include <diffusers/text/clip_text_model.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "models/concat_channels.h"
#include "pipelines/latent_models.h"

namespace diffusers {
namespace {

constexpr const char* kEncodesImages = "encodes_conditioning_images";

/// A copy that does not cut latents off at 1.
std::unique_ptr<Scheduler> without_clipping(const Scheduler& scheduler) {
  if (!scheduler.clip_sample().value_or(false)) return scheduler.clone();
  warn_once(
      fmt::format("{}: clip_sample is true in the config, but latents exceed [-1, 1]; they are sampled "
                  "without it",
                  scheduler.class_name()));
  const std::vector<ConfigOverride> corrections{ConfigOverride{"clip_sample", false}};
  return Scheduler::from_config(scheduler.config_json(), corrections);
}

/// One call: the models, the size of the batch, and the inputs of the UNet.
class ConditionedCall {
 public:
  ConditionedCall(const DiffusionPipeline& pipeline, const LatentDiffusionPipelineOptions& options,
                  bool encodes_images)
      : pipeline_(pipeline),
        options_(options),
        encodes_images_(encodes_images),
        autoencoder_(pipeline.components().at("vae")),
        unet_(pipeline.components().at("unet")) {
    require<TensorError>(options_.image.defined() == options_.mask_image.defined(),
                         "image is {} and mask_image is {}; expected both or none", describe(options_.image),
                         describe(options_.mask_image));
    require<ConfigError>(!options_.image.defined() || !options_.conditioning_images.defined(),
                         "image and conditioning_images are both given; expected one of them");
    embeds_ = prompt_embeds();
    choose_batch_size();
    choose_size();
  }

  const LatentAutoencoder& autoencoder() const { return autoencoder_; }
  const LatentUNet& unet() const { return unet_; }
  bool is_guided() const { return options_.guidance_scale > 1; }
  std::vector<int64_t> latent_shape() const {
    return {batch_size_, autoencoder_.latent_channels(), height_ / autoencoder_.factor(),
            width_ / autoencoder_.factor()};
  }

  /// The inputs besides the latents. With guidance, those without the conditioning come first.
  Conditioning conditioning(const Tensor& noise) const {
    Conditioning given{.class_labels = class_labels(), .encoder_hidden_states = embeds_};
    given.extra_channels = extra_channels(noise);
    check_channels(given.extra_channels);
    if (!is_guided()) return given;
    const auto join = [](const Tensor& without, const Tensor& with) {
      return with.defined() ? at::cat({without, with}) : with;
    };
    require<ConfigError>(given.class_labels.defined() || embeds_.defined() || given.extra_channels.defined(),
                         "guidance_scale is {}, but there is no conditioning to guide with; expected 1",
                         options_.guidance_scale);
    return {.class_labels = join(no_class(given.class_labels), given.class_labels),
            .encoder_hidden_states = join(negative_embeds(), embeds_),
            .extra_channels = given.extra_channels.defined()
                                  ? join(at::zeros_like(given.extra_channels), given.extra_channels)
                                  : Tensor()};
  }

 private:
  Tensor on_device(const Tensor& tensor) const { return tensor.to(unet_.options); }

  Tensor embed(const Texts& texts) const {
    const CLIPTextModel& encoder = pipeline_.components().at("text_encoder").get<CLIPTextModel>();
    const CLIPTokenizer& tokenizer = pipeline_.components().at("tokenizer").get<CLIPTokenizer>();
    const int64_t length = std::min(tokenizer.model_max_length(), encoder->config().max_position_embeddings);
    const Tensor ids =
        tokenizer(texts, {.padding = Padding::kMaxLength, .truncation = true, .max_length = length})
            .input_ids;
    return on_device(encoder->forward(ids.to(unet_.options.device())).last_hidden_state);
  }

  bool has_text_encoder() const {
    const auto has = [&](const char* name) {
      const auto found = pipeline_.components().find(name);
      return found != pipeline_.components().end() && found->second.has_value();
    };
    return has("text_encoder") && has("tokenizer");
  }

  Tensor prompt_embeds() const {
    const bool has_prompt = !options_.prompt.values().empty();
    require<ConfigError>(!has_prompt || !options_.prompt_embeds.defined(),
                         "prompt and prompt_embeds are both given; expected one of them");
    require<ConfigError>(!has_prompt || has_text_encoder(),
                         "a prompt is given, but the pipeline has no text_encoder and tokenizer; give "
                         "prompt_embeds instead");
    const Tensor& given = options_.prompt_embeds;
    require<TensorError>(!given.defined() || (given.dim() == 3 && given.is_floating_point()),
                         "prompt_embeds is {}, expected floating [B, L, D]", describe(given));
    Tensor embeds = has_prompt ? embed(options_.prompt) : given.defined() ? on_device(given) : given;
    require<ConfigError>(!embeds.defined() || unet_.info.takes_encoder_hidden_states,
                         "a prompt or prompt_embeds is given, but the unet has no cross-attention");
    return embeds;
  }

  void choose_batch_size() {
    std::optional<int64_t> rows = options_.batch_size;
    const char* source = "batch_size";
    const auto look = [&](const char* name, const Tensor& tensor) {
      if (!tensor.defined()) return;
      require<TensorError>(tensor.dim() > 0 && (!rows || *rows == tensor.size(0)),
                           "{} is {}, but {} says {} images; expected one row for each image", name,
                           describe(tensor), source, rows.value_or(0));
      if (!rows) source = name;
      rows = tensor.size(0);
    };
    look("class_labels", options_.class_labels);
    look("the embedding of the prompt", embeds_);
    look("conditioning_images", options_.conditioning_images);
    look("image", options_.image);
    look("mask_image", options_.mask_image);
    batch_size_ = rows.value_or(1);
    require<ConfigError>(batch_size_ > 0, "batch_size is {}, expected at least 1", batch_size_);
  }

  void choose_size() {
    const Tensor& given = options_.image.defined() ? options_.image : options_.conditioning_images;
    require<TensorError>(!given.defined() || (given.dim() == 4 && given.is_floating_point()),
                         "the images of the conditioning are {}, expected a floating [B, C, H, W] in [0, 1]",
                         describe(given));
    const int64_t factor = autoencoder_.factor();
    if (given.defined()) {
      height_ = options_.height.value_or(given.size(2));
      width_ = options_.width.value_or(given.size(3));
    } else if (options_.height && options_.width) {
      height_ = *options_.height;
      width_ = *options_.width;
    } else {
      const auto [height, width] = unet_.sample_size(pipeline_);
      height_ = options_.height.value_or(height * factor);
      width_ = options_.width.value_or(width * factor);
    }
    require<ConfigError>(height_ > 0 && width_ > 0 && height_ % factor == 0 && width_ % factor == 0,
                         "height and width are {} and {}, expected positive multiples of {}, the vae's scale",
                         height_, width_, factor);
    const bool must_match = options_.image.defined() || (given.defined() && encodes_images_);
    require<TensorError>(
        !must_match || (given.size(2) == height_ && given.size(3) == width_),
        "the images of the conditioning are {}, but height and width are {} and {}; expected "
        "equal sizes",
        describe(given), height_, width_);
  }

  Tensor class_labels() const {
    const Tensor& labels = options_.class_labels;
    if (!labels.defined()) {
      require<ConfigError>(!unet_.info.num_class_embeds,
                           "the unet has num_class_embeds {}, but class_labels is not given",
                           unet_.info.num_class_embeds.value_or(0));
      return {};
    }
    require<ConfigError>(unet_.info.takes_class_labels, "class_labels is given, but the unet takes none");
    require<TensorError>(labels.dim() == 1 && labels.scalar_type() == at::kLong,
                         "class_labels is {}, expected int64 [B]", describe(labels));
    return labels.to(unet_.options.device());
  }

  Tensor no_class(const Tensor& labels) const {
    if (!labels.defined()) return {};
    require<ConfigError>(unet_.info.num_class_embeds.has_value(),
                         "guidance_scale is {}, but the unet has no num_class_embeds, whose last class means "
                         "\"no class\"; expected 1",
                         options_.guidance_scale);
    return at::full_like(labels, *unet_.info.num_class_embeds - 1);
  }

  Tensor negative_embeds() const {
    if (!embeds_.defined()) return {};
    const Tensor& given = options_.negative_prompt_embeds;
    require<ConfigError>(
        given.defined() || has_text_encoder(),
        "guidance_scale is {}, but there are neither negative_prompt_embeds nor a text_encoder; "
        "expected one of them",
        options_.guidance_scale);
    const Tensor negative = given.defined() ? on_device(given) : embed("");
    require<TensorError>(negative.dim() == 3 && negative.size(1) == embeds_.size(1) &&
                             negative.size(2) == embeds_.size(2) &&
                             (negative.size(0) == 1 || negative.size(0) == batch_size_),
                         "negative_prompt_embeds is {}, but the embedding of the prompt is {}; expected its "
                         "shape, or one row",
                         describe(negative), describe(embeds_));
    return negative.expand_as(embeds_);
  }

  Tensor extra_channels(const Tensor& noise) const {
    if (options_.image.defined()) {
      const Tensor mask = on_device(options_.mask_image);
      require<TensorError>(
          mask.dim() == 4 && mask.size(1) == 1 && mask.size(2) == height_ && mask.size(3) == width_,
          "mask_image is {}, expected [B, 1, {}, {}], the size of the image", describe(mask), height_,
          width_);
      const Tensor visible = (on_device(options_.image) * 2 - 1) * (mask < 0.5);
      return inpainting_channels(
          mask, on_device(autoencoder_.encode(visible, /*is_mean=*/false, options_.generator)));
    }
    if (!options_.conditioning_images.defined()) return {};
    const Tensor images = on_device(options_.conditioning_images);
    if (!encodes_images_) return resized_conditioning_images(images, noise);
    return on_device(autoencoder_.encode(images * 2 - 1, /*is_mean=*/true, std::nullopt));
  }

  void check_channels(const Tensor& extra) const {
    const int64_t extra_count = extra.defined() ? extra.size(1) : 0;
    const int64_t channels = autoencoder_.latent_channels() + extra_count;
    require<ConfigError>(!unet_.info.in_channels || *unet_.info.in_channels == channels,
                         "in_channels of the unet is {}, but it receives {}: {} of the latents and {} of the "
                         "conditioning images; give the conditioning that it was trained with",
                         unet_.info.in_channels.value_or(0), channels, autoencoder_.latent_channels(),
                         extra_count);
  }

  const DiffusionPipeline& pipeline_;
  const LatentDiffusionPipelineOptions& options_;
  bool encodes_images_;
  LatentAutoencoder autoencoder_;
  LatentUNet unet_;
  Tensor embeds_;
  int64_t batch_size_ = 1;
  int64_t height_ = 0;
  int64_t width_ = 0;
};

}  // namespace

const PipelineSpec& LatentDiffusionPipeline::spec() {
  static const PipelineSpec spec{
      .class_name = "LatentDiffusionPipeline",
      .components = {{.name = "vae", .class_names = {"AutoencoderKL", "VQModel"}},
                     {.name = "text_encoder", .class_names = {"CLIPTextModel"}, .is_optional = true},
                     {.name = "tokenizer",
                      .class_names = {"CLIPTokenizer", "CLIPTokenizerFast"},
                      .is_optional = true},
                     {.name = "unet", .class_names = {"UNet2DModel", "UNet2DConditionModel"}},
                     {.name = "scheduler"}},
      .settings = {{kEncodesImages, false}},
      .adapt_scheduler = &without_clipping};
  return spec;
}

LatentDiffusionPipeline::LatentDiffusionPipeline(PipelineComponents components)
    : TypedPipeline(std::move(components)) {}

void LatentDiffusionPipeline::set_encodes_conditioning_images(bool encodes) {
  set_setting(kEncodesImages, encodes);
}

bool LatentDiffusionPipeline::encodes_conditioning_images() const { return setting(kEncodesImages); }

ImagePipelineOutput LatentDiffusionPipeline::operator()(const LatentDiffusionPipelineOptions& options) {
  const InferenceGuard guard(*this);
  const ConditionedCall call(*this, options, encodes_conditioning_images());
  const Tensor noise = latent_noise(call.unet(), call.latent_shape(), options.generator);
  const Conditioning conditioning = call.conditioning(noise);
  const Denoiser denoiser =
      call.is_guided()
          ? classifier_free_guidance(call.unet().denoise, {.guidance_scale = options.guidance_scale})
          : call.unet().denoise;
  return sample_latents(*this, call.autoencoder(), denoiser, conditioning, noise,
                        {options.num_inference_steps, options.eta, options.generator, options.output_type,
                         options.callback_on_step_end});
}

}  // namespace diffusers

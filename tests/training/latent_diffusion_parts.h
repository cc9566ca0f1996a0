#pragma once

// The cases of tests/reference/latent_diffusion.py: models, data and options.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/data/dataset.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/latent_diffusion_task.h>
#include <diffusers/training/training_config.h>

#include <ATen/ATen.h>

#include "core/json.h"
#include "support/golden.h"
#include "training/quick_training.h"
#include "training/tiny_autoencoder.h"
#include "training/tiny_latent_unet.h"

namespace diffusers::test {

inline const Golden& latent_golden() {
  static const Golden golden = load_golden("latent_diffusion.safetensors");
  return golden;
}

/// All samples of the golden file, batch after batch, whatever indices are requested.
class SamplesInOrder : public Dataset {
 public:
  explicit SamplesInOrder(Batch samples) : samples_(std::move(samples)) {}
  int64_t size() const override { return samples_.size(); }
  int64_t class_count() const override { return 4; }
  Batch get_batch(std::span<const int64_t> indices, uint64_t) const override {
    const int64_t first = next_;
    next_ += static_cast<int64_t>(indices.size());
    return samples_.slice(first, next_);
  }

 private:
  Batch samples_;
  mutable int64_t next_ = 0;
};

/// The samples of the training of the golden file.
inline Batch latent_samples() {
  const Golden& golden = latent_golden();
  return {.images = golden["data.images"],
          .class_labels = golden["data.labels"],
          .conditioning_images = golden["data.conditioning_images"],
          .masks = golden["data.masks"]};
}

/// The model, the autoencoder and the options of a case of the golden file.
struct LatentParts {
  TrainableDenoiser unet;
  LatentEncoder encoder;
  LatentDiffusionTaskOptions options;
  DDPMSchedulerConfig scheduler;
  double noise_offset = 0.0;

  std::shared_ptr<LatentDiffusionTask> task() const {
    return std::make_shared<LatentDiffusionTask>(unet, DDPMScheduler(scheduler), encoder, options);
  }
  std::vector<Tensor> parameters() const { return unet.saved->module().parameters(); }
};

/// The hidden states of a class, from the golden file.
inline ConditioningFunction label_states(at::ScalarType dtype) {
  return [states = latent_golden()["data.embeddings"].to(dtype)](const Batch& batch) {
    return Conditioning{.encoder_hidden_states = states.index_select(0, batch.class_labels)};
  };
}

/// @param given one of the cases, see `latent_case`
inline LatentParts latent_parts(const Json& given, at::ScalarType dtype) {
  const std::string key = given.value("key", "none");
  const std::string concat = given.value("concat", "");
  const bool attends = key == "crossattn" || key == "hybrid";
  const double dropout = given.value("dropout", false) ? 0.4 : 0.0;
  const int64_t channels = concat.empty() ? 2 : concat == "encoded_images" ? 4 : 5;
  const LatentEncoderOptions encoding{.scale_by_std = given.value("scale_by_std", false)};
  LatentDiffusionTaskOptions options{.conditioning_key = std::string_view(key)};
  if (!concat.empty()) options.concat_input = std::string_view(concat);
  if (key == "adm") {
    options.diffusion.class_dropout_prob = dropout;
  } else {
    options.conditioning_dropout_prob = dropout;
  }
  if (attends) {
    options.diffusion.conditioning = label_states(dtype);
    options.unconditional_hidden_states = latent_golden()["data.unconditional"];
  }
  const auto encoder = [&] {
    if (given.value("vae", "kl") == "vq") {
      VQModel vqvae = tiny_vqvae();
      vqvae->to(dtype);
      return LatentEncoder(vqvae, encoding);
    }
    AutoencoderKL vae = tiny_vae();
    vae->to(dtype);
    return LatentEncoder(vae, encoding);
  };
  const auto unet = [&]() -> TrainableDenoiser {
    if (attends) {
      UNet2DConditionModel model = tiny_condition_unet(channels);
      model->to(dtype);
      return model;
    }
    UNet2DModel model = tiny_latent_unet(channels, key == "adm" ? std::optional<int64_t>(5) : std::nullopt);
    model->to(dtype);
    return model;
  };
  return {.unet = unet(),
          .encoder = encoder(),
          .options = options,
          .scheduler = {.prediction_type = std::string_view(given.value("prediction_type", "epsilon"))},
          .noise_offset = given.value("noise_offset", 0.0)};
}

inline TrainingConfig latent_config(const std::string& folder) {
  TrainingConfig config = quiet_config(folder);
  config.seed = 5;
  config.learning_rate = 1e-3;
  config.adam_epsilon = 1e-6;
  config.tensorboard = false;
  config.report = false;
  return config;
}

/// The options of a case of the golden file.
inline Json latent_case(const std::string& name) {
  const Json cases = parse_json(latent_golden().metadata.at("cases"), "cases");
  return *std::ranges::find_if(cases, [&](const Json& given) { return given.at("name") == name; });
}

/// The options of a task that embeds captions.
inline LatentDiffusionTaskOptions caption_options(double dropout) {
  const std::string folder = golden_path("tiny_stable_diffusion");
  return {.conditioning_key = "crossattn",
          .tokenizer = CLIPTokenizer::from_pretrained(folder, {.subfolder = "tokenizer"}),
          .text_encoder = CLIPTextModel::from_pretrained(folder, {.subfolder = "text_encoder"}),
          .conditioning_dropout_prob = dropout};
}

}  // namespace diffusers::test

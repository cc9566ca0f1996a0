#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include <diffusers/core/error.h>
#include <diffusers/schedulers/scheduler.h>

#include "checkpoint_report.h"
#include "concat.h"
#include "json_config.h"

using namespace diffusers;

namespace {

/// The configs of a checkpoint by component. A missing config is an empty object.
struct Configs {
  Json scheduler, unet, vae, text_encoder;
  std::string scheduler_class;
  bool has_vae = false;
  bool has_pipeline = false;
};

std::optional<double> number(const Json& config, const char* key) {
  const auto found = config.find(key);
  return found == config.end() ? std::nullopt : json_number(*found);
}

/// Returns the number of a key, or the first element of a list of numbers.
std::optional<double> first_number(const Json& config, const char* key) {
  const auto found = config.find(key);
  if (found != config.end() && found->is_array() && !found->empty()) return json_number(found->front());
  return number(config, key);
}

bool is_true(const Json& config, const char* key) {
  const auto found = config.find(key);
  return found != config.end() && *found == Json(true);
}

std::string text(const Json& config, const char* key) {
  const auto found = config.find(key);
  return found != config.end() && found->is_string() ? found->get<std::string>() : "";
}

/// Returns true if the class has the key. A config may have keys of other classes, which have no effect.
bool has_key(const std::string& scheduler_class, const char* key) {
  Json config = Json::object();
  config["_class_name"] = scheduler_class;
  return parse_json(Scheduler::from_config(write_json(config))->config_json(), scheduler_class).contains(key);
}

Configs configs_of(const Report& report) {
  Configs configs;
  for (const auto& component : report.components) {
    Json config = parse_json(complete_config(component), component.name);
    if (!config.is_object()) continue;
    configs.has_pipeline |= !component.name.empty();
    if (is_scheduler(component)) {
      configs.scheduler = std::move(config);
      configs.scheduler_class = component.class_name;
    } else if (component.class_name.starts_with("UNet2D")) {
      configs.unet = std::move(config);
    } else if (component.name == "vae" || component.name == "vqvae" ||
               component.class_name == "AutoencoderKL" || component.class_name == "VQModel") {
      configs.vae = std::move(config);
      configs.has_vae = true;
    } else if (component.name == "text_encoder") {
      configs.text_encoder = std::move(config);
    }
  }
  return configs;
}

void check_scheduler(const Configs& configs, std::vector<std::string>& warnings) {
  const Json& scheduler = configs.scheduler;
  if (scheduler.empty()) return;
  const std::string prediction = text(scheduler, "prediction_type");
  if (configs.has_vae && is_true(scheduler, "clip_sample") && has_key(configs.scheduler_class, "clip_sample"))
    warnings.emplace_back(
        "scheduler: clip_sample is true (the default of some classes) beside an autoencoder: latents are "
        "not confined to [-1, 1], and clipping ruins them");
  if (is_true(scheduler, "rescale_betas_zero_snr") && prediction == "epsilon")
    warnings.emplace_back(
        "scheduler: rescale_betas_zero_snr with prediction_type epsilon: at the last timestep the input is "
        "noise alone, and x_0 cannot be computed from the noise; use v_prediction or sample");
  const auto steps = number(scheduler, "num_train_timesteps");
  const auto model_steps = number(configs.unet, "num_train_timesteps");
  if (steps && model_steps && *steps != *model_steps)
    warnings.push_back(
        concat("scheduler: num_train_timesteps is ", *steps, ", that of the unet ", *model_steps));
  const auto in_channels = number(configs.unet, "in_channels");
  const auto out_channels = number(configs.unet, "out_channels");
  const bool learns_variance = text(scheduler, "variance_type").starts_with("learned");
  if (in_channels && out_channels && learns_variance && *out_channels != 2 * *in_channels)
    warnings.push_back(concat("scheduler: variance_type ", text(scheduler, "variance_type"),
                              " needs a model with ", 2 * *in_channels, " out_channels, the unet has ",
                              *out_channels));
}

void check_unet(const Configs& configs, std::vector<std::string>& warnings) {
  const auto in_channels = number(configs.unet, "in_channels");
  const auto out_channels = number(configs.unet, "out_channels");
  if (!in_channels || !out_channels) return;
  if (!configs.has_vae && configs.has_pipeline && *out_channels != *in_channels &&
      *out_channels != 2 * *in_channels)
    warnings.push_back(
        concat("unet: in_channels is ", *in_channels, " and out_channels ", *out_channels,
               ": the steps of a scheduler need as many, or twice as many where the variance is learned"));
  const auto width = first_number(configs.unet, "cross_attention_dim");
  const auto hidden = number(configs.text_encoder, "hidden_size");
  if (width && hidden && *width != *hidden && text(configs.unet, "encoder_hid_dim_type").empty() &&
      text(configs.unet, "addition_embed_type").empty())
    warnings.push_back(
        concat("unet: cross_attention_dim is ", *width, ", hidden_size of the text_encoder ", *hidden));
}

void check_vae(const Configs& configs, std::vector<std::string>& warnings) {
  if (!configs.has_vae) return;
  const Json& vae = configs.vae;
  if (!number(vae, "scaling_factor"))
    warnings.emplace_back(
        "vae: the config has no scaling_factor; 0.18215, that of Stable Diffusion 1 and 2, is taken");
  const auto scaling = number(vae, "scaling_factor");
  if (scaling && !(std::isfinite(*scaling) && *scaling > 0))
    warnings.push_back(concat("vae: scaling_factor is ", *scaling, ", expected a positive number"));
  const auto latent = number(vae, "latent_channels");
  const auto in_channels = number(configs.unet, "in_channels");
  const auto out_channels = number(configs.unet, "out_channels");
  // A start image doubles the channels; a mask adds one more.
  if (latent && in_channels && *in_channels != *latent && *in_channels != 2 * *latent &&
      *in_channels != 2 * *latent + 1 && *in_channels != *latent + 3)
    warnings.push_back(
        concat("unet: in_channels is ", *in_channels, ", latent_channels of the vae ", *latent));
  if (latent && out_channels && *out_channels != *latent && *out_channels != 2 * *latent)
    warnings.push_back(
        concat("unet: out_channels is ", *out_channels, ", latent_channels of the vae ", *latent));
  const auto blocks = vae.find("block_out_channels");
  const auto image_size = first_number(vae, "sample_size");
  const auto latent_size = first_number(configs.unet, "sample_size");
  if (blocks == vae.end() || !blocks->is_array() || blocks->empty() || !image_size || !latent_size) return;
  const double factor = std::exp2(static_cast<double>(blocks->size()) - 1);
  if (*image_size != *latent_size * factor)
    warnings.push_back(concat("unet: sample_size is ", *latent_size, ", but the vae makes latents of ",
                              *image_size / factor, " from its sample_size ", *image_size));
}

}  // namespace

void check_configs(Report& report) {
  try {
    const Configs configs = configs_of(report);
    check_scheduler(configs, report.warnings);
    check_unet(configs, report.warnings);
    check_vae(configs, report.warnings);
  } catch (const Error&) {
    // open_checkpoint has reported a config that cannot be read.
  }
}

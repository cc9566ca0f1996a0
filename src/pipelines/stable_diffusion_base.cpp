#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include <diffusers/core/config_overrides.h>
#include <diffusers/core/logging.h>
#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/pipelines/stable_diffusion_base.h>
#include <diffusers/text/clip_text_model.h>

#include "core/require.h"

namespace diffusers {
namespace {

constexpr const char* kRequiresSafetyChecker = "requires_safety_checker";

/// Copies a scheduler and applies the corrections that Python's pipelines make to old configs without these
/// keys.
std::unique_ptr<Scheduler> scheduler_for_latents(const Scheduler& scheduler) {
  std::vector<ConfigOverride> corrections;
  const auto correct = [&](const char* key, const ConfigValue& found, const ConfigValue& value) {
    warn_once(fmt::format("{}: {} is {} in the config, Stable Diffusion is sampled with {}",
                          scheduler.class_name(), key, found.json(), value.json()));
    corrections.push_back({key, value});
  };
  const int64_t steps_offset = scheduler.steps_offset().value_or(1);
  if (steps_offset != 1) correct("steps_offset", steps_offset, 1);
  if (scheduler.clip_sample().value_or(false)) correct("clip_sample", true, false);
  return corrections.empty() ? scheduler.clone()
                             : Scheduler::from_config(scheduler.config_json(), corrections);
}

}  // namespace

StableDiffusionBase::StableDiffusionBase(const PipelineSpec& spec, PipelineComponents components)
    : DiffusionPipeline(spec, std::move(components)) {}

PipelineSpec StableDiffusionBase::spec_of(const char* class_name) {
  return {.class_name = class_name,
          .components = {{.name = "vae", .class_names = {"AutoencoderKL"}},
                         {.name = "text_encoder", .class_names = {"CLIPTextModel"}},
                         {.name = "tokenizer", .class_names = {"CLIPTokenizer", "CLIPTokenizerFast"}},
                         {.name = "unet", .class_names = {"UNet2DConditionModel"}},
                         {.name = "scheduler"}},
          .ignored_components = {"feature_extractor", "image_encoder", "safety_checker"},
          .settings = {{kRequiresSafetyChecker, false}},
          .adapt_scheduler = &scheduler_for_latents};
}

PipelineComponents StableDiffusionBase::components_of(const AutoencoderKL& vae,
                                                      const CLIPTextModel& text_encoder,
                                                      const CLIPTokenizer& tokenizer,
                                                      const UNet2DConditionModel& unet,
                                                      const Scheduler& scheduler) {
  return {{"vae", vae},
          {"text_encoder", text_encoder},
          {"tokenizer", tokenizer},
          {"unet", unet},
          {"scheduler", scheduler}};
}

void StableDiffusionBase::take_settings(const Folder& folder) {
  DiffusionPipeline::take_settings(folder);
  if (std::ranges::find(folder.ignored_components, "safety_checker") == folder.ignored_components.end())
    return;
  warn_once(fmt::format("{}: the safety checker is not run, images are given as they are drawn",
                        folder.path.string()));
  // Python warns if the setting is true and the folder has no safety checker.
  set_setting(kRequiresSafetyChecker, false);
}

AutoencoderKL& StableDiffusionBase::vae() { return component<AutoencoderKL>("vae"); }
CLIPTextModel& StableDiffusionBase::text_encoder() { return component<CLIPTextModel>("text_encoder"); }
CLIPTokenizer& StableDiffusionBase::tokenizer() { return component<CLIPTokenizer>("tokenizer"); }
UNet2DConditionModel& StableDiffusionBase::unet() { return component<UNet2DConditionModel>("unet"); }

void StableDiffusionBase::enable_vae_slicing() { vae()->enable_slicing(); }
void StableDiffusionBase::disable_vae_slicing() { vae()->disable_slicing(); }
void StableDiffusionBase::enable_vae_tiling() { vae()->enable_tiling(); }
void StableDiffusionBase::disable_vae_tiling() { vae()->disable_tiling(); }

LoraModules StableDiffusionBase::lora_modules() { return {.unet = unet(), .text_encoder = text_encoder()}; }

TextualInversionLoader::TextualInversionParts StableDiffusionBase::textual_inversion_parts() {
  return {.tokenizer = &tokenizer(), .text_encoder = &text_encoder()};
}

}  // namespace diffusers

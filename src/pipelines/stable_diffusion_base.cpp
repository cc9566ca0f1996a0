#include <algorithm>

#include <diffusers/core/logging.h>
#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/pipelines/stable_diffusion_base.h>
#include <diffusers/text/clip_text_model.h>

#include "core/require.h"
#include "pipelines/scheduler_traits.h"

namespace diffusers {
namespace {

constexpr const char* kRequiresSafetyChecker = "requires_safety_checker";

}  // namespace

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
  // A folder that says true and has no checker makes Python warn.
  set_setting(kRequiresSafetyChecker, false);
}

AutoencoderKL& StableDiffusionBase::vae() { return component<AutoencoderKL>("vae"); }
CLIPTextModel& StableDiffusionBase::text_encoder() { return component<CLIPTextModel>("text_encoder"); }
CLIPTokenizer& StableDiffusionBase::tokenizer() { return component<CLIPTokenizer>("tokenizer"); }
UNet2DConditionModel& StableDiffusionBase::unet() { return component<UNet2DConditionModel>("unet"); }

}  // namespace diffusers

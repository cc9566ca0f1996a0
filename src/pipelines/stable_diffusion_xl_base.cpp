#include <utility>

#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/pipelines/stable_diffusion_xl_base.h>
#include <diffusers/text/clip_text_model.h>

namespace diffusers {

StableDiffusionXLBase::StableDiffusionXLBase(const PipelineSpec& spec, PipelineComponents components)
    : DiffusionPipeline(spec, std::move(components)) {}

PipelineSpec StableDiffusionXLBase::spec_of(const char* class_name) {
  const auto tokenizer = [](const char* name) {
    return PipelineComponentSpec{
        .name = name, .class_names = {"CLIPTokenizer", "CLIPTokenizerFast"}, .is_optional = true};
  };
  return {.class_name = class_name,
          .components = {{.name = "vae", .class_names = {"AutoencoderKL"}},
                         {.name = "text_encoder", .class_names = {"CLIPTextModel"}, .is_optional = true},
                         {.name = "text_encoder_2",
                          .class_names = {"CLIPTextModelWithProjection"},
                          .is_optional = true},
                         tokenizer("tokenizer"),
                         tokenizer("tokenizer_2"),
                         {.name = "unet", .class_names = {"UNet2DConditionModel"}},
                         {.name = "scheduler"}},
          .ignored_components = {"feature_extractor", "image_encoder"},
          .settings = {{"force_zeros_for_empty_prompt", true}}};
}

PipelineComponents StableDiffusionXLBase::components_of(
    const AutoencoderKL& vae, const CLIPTextModel& text_encoder,
    const CLIPTextModelWithProjection& text_encoder_2, const CLIPTokenizer& tokenizer,
    const CLIPTokenizer& tokenizer_2, const UNet2DConditionModel& unet, const Scheduler& scheduler) {
  return {{"vae", vae},
          {"text_encoder", text_encoder},
          {"text_encoder_2", text_encoder_2},
          {"tokenizer", tokenizer},
          {"tokenizer_2", tokenizer_2},
          {"unet", unet},
          {"scheduler", scheduler}};
}

AutoencoderKL& StableDiffusionXLBase::vae() { return component<AutoencoderKL>("vae"); }
CLIPTextModel& StableDiffusionXLBase::text_encoder() { return component<CLIPTextModel>("text_encoder"); }
CLIPTextModelWithProjection& StableDiffusionXLBase::text_encoder_2() {
  return component<CLIPTextModelWithProjection>("text_encoder_2");
}
CLIPTokenizer& StableDiffusionXLBase::tokenizer() { return component<CLIPTokenizer>("tokenizer"); }
CLIPTokenizer& StableDiffusionXLBase::tokenizer_2() { return component<CLIPTokenizer>("tokenizer_2"); }
UNet2DConditionModel& StableDiffusionXLBase::unet() { return component<UNet2DConditionModel>("unet"); }

void StableDiffusionXLBase::enable_vae_slicing() { vae()->enable_slicing(); }
void StableDiffusionXLBase::disable_vae_slicing() { vae()->disable_slicing(); }
void StableDiffusionXLBase::enable_vae_tiling() { vae()->enable_tiling(); }
void StableDiffusionXLBase::disable_vae_tiling() { vae()->disable_tiling(); }

LoraModules StableDiffusionXLBase::lora_modules() {
  LoraModules modules{.unet = unet()};
  if (components().at("text_encoder").has_value()) modules.text_encoder = text_encoder();
  if (components().at("text_encoder_2").has_value()) modules.text_encoder_2 = text_encoder_2();
  return modules;
}

TextualInversionLoader::TextualInversionParts StableDiffusionXLBase::textual_inversion_parts() {
  const auto has = [this](const char* encoder, const char* tokens) {
    return components().at(encoder).has_value() && components().at(tokens).has_value();
  };
  TextualInversionParts parts;
  if (has("text_encoder", "tokenizer")) {
    parts.tokenizer = &tokenizer();
    parts.text_encoder = &text_encoder();
  }
  if (has("text_encoder_2", "tokenizer_2")) {
    parts.tokenizer_2 = &tokenizer_2();
    parts.text_encoder_2 = &text_encoder_2();
  }
  return parts;
}

}  // namespace diffusers

#include <map>
#include <mutex>
#include <string>

#include <diffusers/core/error.h>
#include <diffusers/io/files.h>
#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/autoencoder_tiny.h>
#include <diffusers/models/controlnet.h>
#include <diffusers/models/multi_controlnet.h>
#include <diffusers/models/t2i_adapter.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/models/vq_model.h>
#include <diffusers/pipelines/ddim_pipeline.h>
#include <diffusers/pipelines/ddpm_pipeline.h>
#include <diffusers/pipelines/latent_diffusion_pipeline.h>
#include <diffusers/pipelines/ldm_pipeline.h>
#include <diffusers/pipelines/register_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_adapter_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_controlnet_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_img2img_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_inpaint_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_instruct_pix2pix_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_xl_img2img_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_xl_pipeline.h>
#include <diffusers/text/clip_text_model.h>
#include <diffusers/text/clip_tokenizer.h>

#include "core/json.h"
#include "core/require.h"
#include "io/open_model_file.h"
#include "pipelines/known_classes.h"

namespace diffusers {
namespace {

PipelineComponent load_clip_tokenizer(const std::filesystem::path& folder, const std::string& name,
                                      const PipelineLoadOptions& /*options*/) {
  return CLIPTokenizer::from_pretrained(folder, {.subfolder = name});
}

/// Loads a scheduler. The class in the index has priority over the class in the config.
PipelineComponent load_scheduler_component(const std::filesystem::path& folder, const std::string& name,
                                           const std::string& class_name) {
  const std::string subfolder = folder_inside(folder.string(), name);
  const std::string path = join_path(subfolder, "scheduler_config.json");
  require<FileError>(file_exists(path), "{}: component \"{}\" has no scheduler_config.json", folder.string(),
                     name);
  Json config = parse_json(read_model_file(subfolder, base_name(path)), path);
  require<FileError>(config.is_object(), "{}: expected a JSON object", path);
  config["_class_name"] = class_name;
  return Scheduler::from_config(dump_json(config));
}

/// The classes of the library and those that the program has registered.
struct KnownClasses {
  std::mutex mutex;
  std::map<std::string, detail::LoadPipeline> pipelines{
      {"DDIMPipeline", &detail::load_pipeline<DDIMPipeline>},
      {"DDPMPipeline", &detail::load_pipeline<DDPMPipeline>},
      {"LDMPipeline", &detail::load_pipeline<LDMPipeline>},
      {"LatentDiffusionPipeline", &detail::load_pipeline<LatentDiffusionPipeline>},
      {"StableDiffusionAdapterPipeline", &detail::load_pipeline<StableDiffusionAdapterPipeline>},
      {"StableDiffusionControlNetPipeline", &detail::load_pipeline<StableDiffusionControlNetPipeline>},
      {"StableDiffusionImg2ImgPipeline", &detail::load_pipeline<StableDiffusionImg2ImgPipeline>},
      {"StableDiffusionInpaintPipeline", &detail::load_pipeline<StableDiffusionInpaintPipeline>},
      {"StableDiffusionInstructPix2PixPipeline",
       &detail::load_pipeline<StableDiffusionInstructPix2PixPipeline>},
      {"StableDiffusionPipeline", &detail::load_pipeline<StableDiffusionPipeline>},
      {"StableDiffusionXLImg2ImgPipeline", &detail::load_pipeline<StableDiffusionXLImg2ImgPipeline>},
      {"StableDiffusionXLPipeline", &detail::load_pipeline<StableDiffusionXLPipeline>}};
  std::map<std::string, detail::LoadComponent> components{
      {"AutoencoderKL", &detail::load_model_component<AutoencoderKL>},
      {"AutoencoderTiny", &detail::load_model_component<AutoencoderTiny>},
      {"CLIPTextModel", &detail::load_model_component<CLIPTextModel>},
      {"CLIPTextModelWithProjection", &detail::load_model_component<CLIPTextModelWithProjection>},
      {"CLIPTokenizer", &load_clip_tokenizer},
      {"CLIPTokenizerFast", &load_clip_tokenizer},
      {"ControlNetModel", &detail::load_model_component<ControlNetModel>},
      {"MultiAdapter", &detail::load_model_component<MultiAdapter>},
      {"MultiControlNetModel", &detail::load_model_component<MultiControlNetModel>},
      {"T2IAdapter", &detail::load_model_component<T2IAdapter>},
      {"UNet2DConditionModel", &detail::load_model_component<UNet2DConditionModel>},
      {"UNet2DModel", &detail::load_model_component<UNet2DModel>},
      {"VQModel", &detail::load_model_component<VQModel>}};
};

KnownClasses& known_classes() {
  static KnownClasses classes;
  return classes;
}

template <class Load>
void add_class(std::map<std::string, Load>& classes, const std::string& class_name, Load load) {
  const std::lock_guard lock(known_classes().mutex);
  const auto [entry, is_new] = classes.emplace(class_name, load);
  require<ConfigError>(is_new || entry->second == load,
                       "the class name \"{}\" cannot be registered: another class has it", class_name);
}

template <class Load>
Load find_class(const std::map<std::string, Load>& classes, const std::string& class_name) {
  const std::lock_guard lock(known_classes().mutex);
  const auto entry = classes.find(class_name);
  return entry == classes.end() ? nullptr : entry->second;
}

template <class Load>
std::vector<std::string> names_of(const std::map<std::string, Load>& classes) {
  const std::lock_guard lock(known_classes().mutex);
  std::vector<std::string> names;
  for (const auto& [name, load] : classes) names.push_back(name);
  return names;
}

}  // namespace

void detail::add_pipeline_class(const std::string& class_name, LoadPipeline load) {
  add_class(known_classes().pipelines, class_name, load);
}

void detail::add_component_class(const std::string& class_name, LoadComponent load) {
  add_class(known_classes().components, class_name, load);
}

detail::LoadPipeline internal::find_pipeline_class(const std::string& class_name) {
  return find_class(known_classes().pipelines, class_name);
}

std::vector<std::string> internal::pipeline_class_names() { return names_of(known_classes().pipelines); }

PipelineComponent internal::load_component(const std::filesystem::path& folder, const std::string& name,
                                           const std::string& class_name,
                                           const PipelineLoadOptions& options) {
  if (const auto load = find_class(known_classes().components, class_name))
    return load(folder, name, options);
  // Scheduler::from_config checks the class name; its error lists the known schedulers.
  if (name.ends_with("scheduler") || class_name.ends_with("Scheduler"))
    return load_scheduler_component(folder, name, class_name);
  fail<FileError>("{}: component \"{}\" is a {}, expected a scheduler or one of: {}", folder.string(), name,
                  class_name, fmt::join(names_of(known_classes().components), ", "));
}

}  // namespace diffusers

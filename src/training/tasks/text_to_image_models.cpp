#include <string>
#include <vector>

#include <diffusers/core/config_overrides.h>
#include <diffusers/io/files.h>
#include <diffusers/training/text_to_image_models.h>

#include "core/require.h"
#include "io/model_index.h"
#include "io/open_model_file.h"
#include "training/tasks/text_to_image_folder.h"

namespace diffusers {
namespace {

/// Loads the components that a model_index.json names.
class FolderReader {
 public:
  FolderReader(const std::filesystem::path& folder, const ModelLoadOptions& options)
      : folder_(options.subfolder.empty() ? folder : folder / options.subfolder),
        options_(options),
        index_(read_model_index(folder_, "TextToImageModels")) {}

  bool has(const std::string& name) const {
    const auto found = index_.components.find(name);
    return found != index_.components.end() && !found->second.empty();
  }
  bool setting(const std::string& name, bool otherwise) const {
    const auto found = index_.settings.find(name);
    return found == index_.settings.end() ? otherwise : found->second;
  }

  /// Checks that a component is there and of one of some classes; none: of any.
  void require_component(const std::string& name, const std::vector<std::string>& class_names) const {
    const std::string path = (folder_ / "model_index.json").string();
    require<FileError>(has(name),
                       "{}: component \"{}\" is missing; a Stable Diffusion folder to train has {}", path,
                       name, fmt::join(required_names(), ", "));
    require<FileError>(folder_exists(folder_inside(folder_.string(), name)),
                       "{}: the folder of component \"{}\" is missing: {}", path, name,
                       (folder_ / name).string());
    const std::string& found = index_.components.at(name);
    bool is_known = class_names.empty();
    for (const std::string& class_name : class_names) is_known = is_known || class_name == found;
    require<FileError>(is_known, "{}: component \"{}\" is a {}, expected a {}", path, name, found,
                       fmt::join(class_names, " or "));
  }

  template <class Model>
  Model model(const std::string& name) const {
    require_component(name, {Model::ContainedType::class_name()});
    return Model::from_pretrained(
        folder_,
        {.subfolder = name, .variant = options_.variant, .dtype = options_.dtype, .device = options_.device});
  }
  CLIPTokenizer tokenizer(const std::string& name) const {
    require_component(name, {"CLIPTokenizer", "CLIPTokenizerFast"});
    return CLIPTokenizer::from_pretrained(folder_, {.subfolder = name});
  }
  std::unique_ptr<Scheduler> scheduler() const {
    require_component("scheduler", {});
    return Scheduler::from_pretrained(folder_, {.subfolder = "scheduler"});
  }

 private:
  std::vector<std::string> required_names() const {
    std::vector<std::string> names = {"tokenizer", "text_encoder", "vae", "unet", "scheduler"};
    if (index_.class_name.find("XL") != std::string::npos) {
      names.emplace_back("tokenizer_2");
      names.emplace_back("text_encoder_2");
    }
    return names;
  }

  std::filesystem::path folder_;
  ModelLoadOptions options_;
  ModelIndex index_;
};

}  // namespace

bool TextToImageModels::is_xl() const {
  const auto& addition = unet->config().addition_embed_type;
  return addition && *addition == AdditionEmbedType::kTextTime;
}

bool TextToImageModels::is_inpainting() const {
  return unet->config().in_channels == 2 * vae->config().latent_channels + 1;
}

TextToImageModels TextToImageModels::from_pretrained(const std::filesystem::path& folder,
                                                     const ModelLoadOptions& options) {
  const FolderReader reader(folder, options);
  TextToImageModels models;
  models.unet = reader.model<UNet2DConditionModel>("unet");
  models.vae = reader.model<AutoencoderKL>("vae");
  models.text_encoder = reader.model<CLIPTextModel>("text_encoder");
  models.tokenizer = reader.tokenizer("tokenizer");
  models.scheduler = reader.scheduler();
  if (models.is_xl()) {
    models.tokenizer_2 = reader.tokenizer("tokenizer_2");
    models.text_encoder_2 = reader.model<CLIPTextModelWithProjection>("text_encoder_2");
    models.force_zeros_for_empty_prompt = reader.setting("force_zeros_for_empty_prompt", true);
  }
  return models;
}

void TextToImageModels::save_pretrained(const std::filesystem::path& folder) const {
  create_folders(folder);
  unet->save_pretrained(folder / "unet");
  save_text_encoders(*this, folder);
  save_beside_text_to_image(*this, folder);
}

void internal::save_text_encoders(const TextToImageModels& models, const std::filesystem::path& folder) {
  models.text_encoder->save_pretrained(folder / "text_encoder");
  if (models.is_xl()) models.text_encoder_2->save_pretrained(folder / "text_encoder_2");
}

void internal::save_beside_text_to_image(const TextToImageModels& models, const std::filesystem::path& folder,
                                         const std::string& class_name) {
  models.vae->save_pretrained(folder / "vae");
  models.tokenizer.save_pretrained(folder / "tokenizer");
  models.scheduler->save_pretrained(folder / "scheduler");
  ModelIndex index{.class_name = "StableDiffusionPipeline",
                   .components = {{"vae", "AutoencoderKL"},
                                  {"text_encoder", "CLIPTextModel"},
                                  {"tokenizer", "CLIPTokenizer"},
                                  {"unet", "UNet2DConditionModel"},
                                  {"scheduler", models.scheduler->class_name()},
                                  {"feature_extractor", ""},
                                  {"image_encoder", ""}}};
  if (models.is_xl()) {
    index.class_name =
        models.is_inpainting() ? "StableDiffusionXLInpaintPipeline" : "StableDiffusionXLPipeline";
    models.tokenizer_2->save_pretrained(folder / "tokenizer_2");
    index.components["text_encoder_2"] = "CLIPTextModelWithProjection";
    index.components["tokenizer_2"] = "CLIPTokenizer";
    index.settings["force_zeros_for_empty_prompt"] = models.force_zeros_for_empty_prompt;
  } else {
    if (models.is_inpainting()) index.class_name = "StableDiffusionInpaintPipeline";
    index.components["safety_checker"] = "";
    index.settings["requires_safety_checker"] = false;
  }
  if (!class_name.empty()) index.class_name = class_name;
  // Last, so that a folder with an index is complete.
  write_model_index(index, folder);
}

}  // namespace diffusers

// Writes a LoRA file in another layout: of diffusers, PEFT or kohya-ss. It reads every layout that
// `load_lora_weights` reads. The model folder gives the names of the layers; its weights are not read.

#include <cstdio>
#include <string>

#include <diffusers/core/error.h>
#include <diffusers/io/files.h>
#include <diffusers/io/model_file.h>
#include <diffusers/models/layers.h>
#include <diffusers/models/lora_weights.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/text/clip_text_model.h>

#include "../flags.h"
#include "../program.h"

using namespace diffusers;

namespace {

struct Settings {
  std::string lora;
  std::string output;
  std::string model;
  EnumChoice<LoraFormat> format = LoraFormat::kDiffusers;
  std::string weight_name;
  std::string output_name = "pytorch_lora_weights.safetensors";
};

const FlagTable<Settings>& flags() {
  static const FlagTable<Settings> table{
      {"Flags",
       {{"lora", &Settings::lora, "LoRA file, or a folder with one.", {.required = true}},
        {"output", &Settings::output, "Folder of the new file.", {.required = true}},
        {"--model",
         &Settings::model,
         "Pipeline folder of the model that the adapter is for. Its configs are read.",
         {.required = true}},
        {"--format", &Settings::format, "Layout of the new file."},
        {"--weight_name",
         &Settings::weight_name,
         "Name of the file in the folder of the adapter.",
         {.default_text = "pytorch_lora_weights.safetensors, or the only safetensors file"}},
        {"--output_name", &Settings::output_name, "Name of the new file. The format peft has fixed names."}}},
  };
  return table;
}

/// Makes a component without reading weights; empty if the folder has none.
template <class Model>
Model component(const std::string& folder, const char* name) {
  const std::string inner = join_path(folder, name);
  if (!file_exists(join_path(inner, "config.json"))) return Model(nullptr);
  // The layers allocate memory, but do not write to it.
  const layers::SkipInitGuard skip_init;
  return Model::from_config(read_model_file(inner, "config.json"));
}

int run(int argc, char** argv) {
  const Settings settings = parse_flags(flags(), "Writes a LoRA file in another layout", argc, argv);
  if (!folder_exists(settings.model))
    throw FileError("--model " + settings.model + ": there is no such folder");
  const LoraModules modules{
      .unet = component<UNet2DConditionModel>(settings.model, "unet"),
      .text_encoder = component<CLIPTextModel>(settings.model, "text_encoder"),
      .text_encoder_2 = component<CLIPTextModelWithProjection>(settings.model, "text_encoder_2")};
  if (!modules.unet.module() && !modules.text_encoder.module())
    throw FileError("--model " + settings.model +
                    ": there is no unet/config.json and no "
                    "text_encoder/config.json; expected a pipeline folder");
  convert_lora_weights(
      settings.lora, settings.output, modules,
      {.format = settings.format, .weight_name = settings.weight_name, .output_name = settings.output_name});
  std::printf("%s: the adapter of %s in the format %s\n", settings.output.c_str(), settings.lora.c_str(),
              std::string(settings.format.name()).c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return run_program("convert_lora", run, argc, argv); }

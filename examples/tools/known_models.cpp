#include "known_models.h"

#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/autoencoder_tiny.h>
#include <diffusers/models/controlnet.h>
#include <diffusers/models/discriminator.h>
#include <diffusers/models/layers.h>
#include <diffusers/models/t2i_adapter.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/models/vq_model.h>
#include <diffusers/text/clip_text_model.h>

using namespace diffusers;

namespace {

template <class Model>
ModelPlan plan_of(const std::string& json) {
  // The layers allocate memory, but do not write to it.
  const layers::SkipInitGuard skip_init;
  Model model = Model::from_config(json);
  ModelPlan plan;
  for (const auto& item : model->named_parameters()) {
    plan.shapes[item.key()] = item.value().sizes().vec();
    plan.num_parameters += item.value().numel();
  }
  for (const auto& item : model->named_buffers()) plan.shapes[item.key()] = item.value().sizes().vec();
  plan.renamed = diffusers::detail::renamed_tensors(*model);
  // Models that are not of diffusers define the names of their files.
  if constexpr (requires { Model::ContainedType::weights_format(); }) {
    const auto format = Model::ContainedType::weights_format();
    plan.basename = format.basename;
    plan.name_in_model = format.name_in_model;
  }
  return plan;
}

/// One line for each class.
const std::map<std::string, ModelPlan (*)(const std::string&)> kModels{
    {"AutoencoderKL", &plan_of<AutoencoderKL>},
    {"AutoencoderTiny", &plan_of<AutoencoderTiny>},
    {"CLIPTextModel", &plan_of<CLIPTextModel>},
    {"CLIPTextModelWithProjection", &plan_of<CLIPTextModelWithProjection>},
    {"ControlNetModel", &plan_of<ControlNetModel>},
    {"NLayerDiscriminator", &plan_of<NLayerDiscriminator>},
    {"T2IAdapter", &plan_of<T2IAdapter>},
    {"UNet2DConditionModel", &plan_of<UNet2DConditionModel>},
    {"UNet2DModel", &plan_of<UNet2DModel>},
    {"VQModel", &plan_of<VQModel>},
};

}  // namespace

bool is_known_model(const std::string& class_name) { return kModels.contains(class_name); }

std::optional<ModelPlan> plan_model(const std::string& class_name, const std::string& json) {
  const auto found = kModels.find(class_name);
  if (found == kModels.end()) return std::nullopt;
  return found->second(json);
}

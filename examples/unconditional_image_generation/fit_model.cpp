#include "fit_model.h"

#include <cstdint>
#include <string>

#include <diffusers/core/error.h>

using namespace diffusers;

namespace {

std::string number(int64_t value) { return std::to_string(value); }

}  // namespace

void fit_model(UnconditionalSettings& settings, const TrainingData& data) {
  UNet2DModelConfig& model = settings.model;
  const bool takes_labels = model.num_class_embeds || model.class_embed_type;
  if (settings.has_model_config()) {
    if (model.in_channels != data.channels || model.out_channels != data.channels)
      throw ConfigError("--model_config_name_or_path: the model has in_channels " +
                        number(model.in_channels) + " and out_channels " + number(model.out_channels) +
                        ", expected " + number(data.channels) + ", the channels of " + settings.data.flag());
    if (takes_labels && !settings.class_conditional)
      throw ConfigError(
          "--model_config_name_or_path: the model takes class labels; add --class_conditional to train with "
          "labels, or remove num_class_embeds and class_embed_type from the config");
  }
  model.in_channels = model.out_channels = data.channels;
  if (!settings.class_conditional) return;

  if (data.num_classes == 0)
    throw ConfigError("--class_conditional needs class labels, but " + settings.data.flag() +
                      (settings.data.shards.is_given()
                           ? "; expected their number, --num_classes"
                           : " has no sub-folders with images, whose names would be the classes"));
  // The last class stands for "no class".
  const int64_t num_class_embeds = data.num_classes + 1;
  if (takes_labels && (model.class_embed_type || model.num_class_embeds != num_class_embeds))
    throw ConfigError(
        "--class_conditional: the model of --model_config_name_or_path has " +
        (model.class_embed_type ? "a class_embed_type"
                                : "num_class_embeds " + number(model.num_class_embeds.value_or(0))) +
        ", expected num_class_embeds " + number(num_class_embeds) + ": " + number(data.num_classes) +
        " classes of " + settings.data.flag() + " and one for \"no class\"");
  model.num_class_embeds = num_class_embeds;
}

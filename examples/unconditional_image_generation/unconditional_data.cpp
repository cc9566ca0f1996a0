#include "unconditional_data.h"

#include <algorithm>
#include <string>

#include <diffusers/core/error.h>
#include <diffusers/data/image_folder.h>
#include <diffusers/data/mnist.h>

using namespace diffusers;

namespace {

std::unique_ptr<MnistDataset> open_idx(const UnconditionalSettings& settings, Split split) {
  return std::make_unique<MnistDataset>(
      settings.data_folder(),
      MnistDatasetOptions{
          .split = split, .resolution = *settings.training.resolution, .random_flip = settings.random_flip});
}

std::string number(int64_t value) { return std::to_string(value); }

}  // namespace

TrainingData open_data(const UnconditionalSettings& settings) {
  TrainingData data;
  if (settings.is_idx()) {
    auto train = open_idx(settings, Split::kTrain);
    auto held_out = open_idx(settings, Split::kTest);
    data.channels = 1;
    data.num_classes = std::max(train->num_classes(), held_out->num_classes());
    data.train = std::move(train);
    data.held_out = std::move(held_out);
    return data;
  }
  // The channels of a given model determine whether the images are read as gray or as RGB.
  data.channels = settings.has_model_config() ? settings.model.in_channels : 3;
  if (data.channels != 1 && data.channels != 3)
    throw ConfigError("--model_config_name_or_path: the model has in_channels " + number(data.channels) +
                      ", expected 1 (gray) or 3 (RGB) for a folder of images");
  auto train = std::make_unique<ImageFolder>(settings.train_data_dir,
                                             ImageFolderOptions{.resolution = *settings.training.resolution,
                                                                .center_crop = settings.center_crop,
                                                                .random_flip = settings.random_flip,
                                                                .channels = data.channels});
  data.num_classes = train->class_count();
  data.train = std::move(train);
  return data;
}

void fit_model(UnconditionalSettings& settings, const TrainingData& data) {
  UNet2DModelConfig& model = settings.model;
  const bool takes_labels = model.num_class_embeds || model.class_embed_type;
  if (settings.has_model_config()) {
    if (model.in_channels != data.channels || model.out_channels != data.channels)
      throw ConfigError("--model_config_name_or_path: the model has in_channels " +
                        number(model.in_channels) + " and out_channels " + number(model.out_channels) +
                        ", expected " + number(data.channels) + ", the channels of " + settings.data_flag());
    if (takes_labels && !settings.class_conditional)
      throw ConfigError(
          "--model_config_name_or_path: the model takes class labels; add --class_conditional to train with "
          "labels, or remove num_class_embeds and class_embed_type from the config");
  }
  model.in_channels = model.out_channels = data.channels;
  if (!settings.class_conditional) return;

  if (data.num_classes == 0)
    throw ConfigError("--class_conditional needs class labels, but " + settings.data_flag() +
                      " has no sub-folders with images, whose names would be the classes");
  // The last class stands for "no class".
  const int64_t num_class_embeds = data.num_classes + 1;
  if (takes_labels && (model.class_embed_type || model.num_class_embeds != num_class_embeds))
    throw ConfigError(
        "--class_conditional: the model of --model_config_name_or_path has " +
        (model.class_embed_type ? "a class_embed_type"
                                : "num_class_embeds " + number(model.num_class_embeds.value_or(0))) +
        ", expected num_class_embeds " + number(num_class_embeds) + ": " + number(data.num_classes) +
        " classes of " + settings.data_flag() + " and one for \"no class\"");
  model.num_class_embeds = num_class_embeds;
}

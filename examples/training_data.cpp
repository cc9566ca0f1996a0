#include "training_data.h"

#include <algorithm>

#include <diffusers/core/error.h>

#include "training_group.h"

using namespace diffusers;

std::string DataSettings::folder() const {
  if (!is_idx()) return train_data_dir;
  if (!data_dir.empty()) return data_dir;
  return dataset == "mnist" ? "examples/data/mnist" : "/usr/share/datasets/fashion-mnist";
}

std::string DataSettings::flag() const {
  return is_idx() ? "--dataset " + dataset : "--train_data_dir " + train_data_dir;
}

const FlagTable<DataSettings>& data_flags() {
  using Settings = DataSettings;
  static const FlagTable<Settings> table{
      {"Data",
       {{"--train_data_dir", &Settings::train_data_dir,
         "Folder of PNG and JPEG files. Its sub-folders are the classes."},
        {"--dataset",
         &Settings::dataset,
         "Dataset of IDX files, instead of --train_data_dir: mnist or fashion-mnist.",
         {.check = CLI::IsMember({"mnist", "fashion-mnist"})}},
        {"--data_dir",
         &Settings::data_dir,
         "Folder of the four IDX files of --dataset. EMNIST and others have the same file names.",
         {.default_text = "examples/data/mnist, or that of Debian's package dataset-fashion-mnist"}},
        {"--center_crop", &Settings::center_crop,
         "Crop the center of each image. Without it the crop is random."},
        {"--random_flip", &Settings::random_flip, "Flip half of the images horizontally."}}},
  };
  return table;
}

void check_data_flags(const CLI::App& app, DataSettings& settings,
                      const std::vector<std::string>& folder_flags) {
  const auto is_given = [&](const std::string& flag) { return app.count(flag) > 0; };
  const auto refuse_if = [](bool is_wrong, const std::string& message) {
    if (is_wrong) throw ConfigError(message);
  };
  if (is_given("--train_data_dir") && !is_given("--dataset")) settings.dataset.clear();
  refuse_if(settings.train_data_dir.empty() && !settings.is_idx(),
            "there is no training data; expected --train_data_dir or --dataset");
  refuse_if(!settings.train_data_dir.empty() && settings.is_idx(),
            "--train_data_dir and --dataset exclude each other; found both");
  refuse_if(
      !settings.is_idx() && is_given("--data_dir"),
      "--data_dir is the folder of the IDX files of --dataset; image files are read from --train_data_dir");
  refuse_if(settings.is_idx() && is_given("--center_crop"),
            "--center_crop needs --train_data_dir; the images of " + settings.flag() + " are not cropped");
  for (const std::string& flag : folder_flags)
    refuse_if(settings.is_idx() && is_given(flag),
              flag + " needs --train_data_dir; found " + settings.flag());
}

std::unique_ptr<Dataset> open_images(const DataSettings& settings, ImageFolderOptions options, Split split) {
  if (settings.is_idx())
    return std::make_unique<MnistDataset>(
        settings.folder(),
        MnistDatasetOptions{
            .split = split, .resolution = options.resolution, .random_flip = settings.random_flip});
  options.center_crop = settings.center_crop;
  options.random_flip = settings.random_flip;
  return std::make_unique<ImageFolder>(settings.folder(), options);
}

TrainingData open_training_data(const DataSettings& settings, int64_t resolution, int64_t channels) {
  if (!settings.is_idx() && channels != 1 && channels != 3)
    throw ConfigError("--model_config_name_or_path: the model has in_channels " + std::to_string(channels) +
                      ", expected 1 (gray) or 3 (RGB) for a folder of images");
  const ImageFolderOptions options{.resolution = resolution, .channels = channels};
  TrainingData data;
  data.channels = settings.is_idx() ? 1 : channels;
  data.train = open_images(settings, options);
  data.num_classes = data.train->class_count();
  if (!settings.is_idx()) return data;
  data.held_out = open_images(settings, options, Split::kTest);
  data.num_classes = std::max(data.num_classes, data.held_out->class_count());
  return data;
}

int64_t steps_per_epoch(const Dataset& data, const TrainingConfig& config) {
  const auto ratio_up = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  const int64_t batch_size = config.train_batch_size * training_group().world_size();
  return ratio_up(ratio_up(data.size(), batch_size), config.gradient_accumulation_steps);
}

#include "training_data.h"

#include <algorithm>
#include <utility>

#include <diffusers/core/error.h>

#include "training_group.h"

using namespace diffusers;

std::string DataSettings::folder() const {
  if (shards.is_given()) return shards.train_shards;
  if (!is_idx()) return train_data_dir;
  if (!data_dir.empty()) return data_dir;
  return dataset == "mnist" ? "examples/data/mnist" : "/usr/share/datasets/fashion-mnist";
}

std::string DataSettings::flag() const {
  if (shards.is_given()) return "--train_shards " + shards.train_shards;
  return is_idx() ? "--dataset " + dataset : "--train_data_dir " + train_data_dir;
}

const FlagTable<ShardSettings>& shard_flags() {
  using Settings = ShardSettings;
  static const FlagTable<Settings> table{
      {"Data",
       {{"--train_shards,--train_shards_path_or_url", &Settings::train_shards,
         "Pattern of the shards of a WebDataset, tar archives of images with captions or labels, such as "
         "\"data-{000000..000099}.tar\". Instead of --train_data_dir."},
        {"--shuffle_buffer_size",
         &Settings::shuffle_buffer_size,
         "Number of samples that each thread shuffles the shards' samples in. 0 keeps the order of the "
         "shards.",
         {.check = at_least(0)}},
        {"--num_train_samples",
         &Settings::num_train_samples,
         "Number of samples of an epoch of --train_shards, of all processes together. 0: an epoch is one "
         "pass, whose "
         "number of samples is not known.",
         {.check = at_least(0)}},
        {"--enable_bucketing", &Settings::enable_bucketing,
         "Sort the images of --train_data_dir into aspect-ratio buckets of about --resolution x --resolution "
         "pixels. "
         "Each batch has one size."},
        {"--bucket_step",
         &Settings::bucket_step,
         "The sides of the buckets are multiples of this number.",
         {.check = at_least(1)}}}},
  };
  return table;
}

void add_data_flags(CLI::App& app, DataSettings& settings) {
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
        {"--num_classes",
         &Settings::num_classes,
         "Number of classes of --train_shards, whose labels are numbers in KEY.cls or KEY.json. 0: the "
         "labels are not "
         "used.",
         {.check = at_least(0)}},
        {"--center_crop", &Settings::center_crop,
         "Crop the center of each image. Without it the crop is random."},
        {"--random_flip", &Settings::random_flip, "Flip half of the images horizontally."}}},
  };
  add_flags(app, table, settings);
  add_flags(app, shard_flags(), settings.shards);
}

void check_shard_flags(const CLI::App& app, const ShardSettings& settings,
                       const std::vector<std::string>& folder_flags) {
  const auto refuse_if = [](bool is_wrong, const std::string& message) {
    if (is_wrong) throw ConfigError(message);
  };
  // Not every program has all of these flags.
  const auto is_given = [&](const std::string& flag) {
    const CLI::Option* option = app.get_option_no_throw(flag);
    return option != nullptr && option->count() > 0;
  };
  refuse_if(settings.is_given() && is_given("--train_data_dir"),
            "--train_data_dir and --train_shards exclude each other; found both");
  for (const char* flag : {"--shuffle_buffer_size", "--num_train_samples"})
    refuse_if(!settings.is_given() && is_given(flag), std::string(flag) + " needs --train_shards");
  refuse_if(!settings.enable_bucketing && is_given("--bucket_step"),
            "--bucket_step needs --enable_bucketing");
  refuse_if(settings.is_given() && settings.enable_bucketing,
            "--enable_bucketing needs --train_data_dir, since the sizes of images in shards are not known in "
            "advance");
  for (const std::string& flag : folder_flags)
    refuse_if(settings.is_given() && is_given(flag), flag + " needs --train_data_dir; found --train_shards");
}

void check_data_flags(const CLI::App& app, DataSettings& settings,
                      const std::vector<std::string>& folder_flags) {
  const auto is_given = [&](const std::string& flag) { return app.count(flag) > 0; };
  const auto refuse_if = [](bool is_wrong, const std::string& message) {
    if (is_wrong) throw ConfigError(message);
  };
  check_shard_flags(app, settings.shards);
  for (const char* flag : {"--train_data_dir", "--train_shards"})
    if (is_given(flag) && !is_given("--dataset")) settings.dataset.clear();
  refuse_if(settings.train_data_dir.empty() && !settings.shards.is_given() && !settings.is_idx(),
            "there is no training data; expected --train_data_dir or --dataset, or --train_shards");
  for (const char* flag : {"--train_data_dir", "--train_shards"})
    refuse_if(is_given(flag) && settings.is_idx(),
              std::string(flag) + " and --dataset exclude each other; found both");
  refuse_if(
      !settings.is_idx() && is_given("--data_dir"),
      "--data_dir is the folder of the IDX files of --dataset; image files are read from --train_data_dir");
  for (const char* flag : {"--center_crop", "--enable_bucketing"})
    refuse_if(
        settings.is_idx() && is_given(flag),
        std::string(flag) + " needs --train_data_dir; the images of " + settings.flag() + " are not cropped");
  refuse_if(!settings.shards.is_given() && is_given("--num_classes"), "--num_classes needs --train_shards");
  for (const std::string& flag : folder_flags)
    refuse_if((settings.is_idx() || settings.shards.is_given()) && is_given(flag),
              flag + " needs --train_data_dir; found " + settings.flag());
}

const Dataset& TrainImages::dataset() const {
  if (!dataset_)
    throw ConfigError("--train_shards are read in order; expected --train_data_dir or --dataset here");
  return *dataset_;
}

std::optional<int64_t> TrainImages::size() const {
  return shards_ ? shards_->size() : std::optional<int64_t>(dataset().size());
}

std::string TrainImages::description() const {
  return shards_ ? std::to_string(shards_->shards().size()) + " shards"
                 : std::to_string(dataset().size()) + " images";
}

int64_t TrainImages::class_count() const {
  return shards_ ? shards_->class_count() : dataset().class_count();
}

Batch TrainImages::first(int64_t count) const {
  if (shards_) {
    const std::unique_ptr<SampleStream> stream = in_order_->open(0);
    std::vector<Batch> samples;
    while (static_cast<int64_t>(samples.size()) < count) {
      std::optional<Batch> sample = stream->next();
      if (!sample) break;
      samples.push_back(std::move(*sample));
    }
    return collate(samples);
  }
  const std::vector<int64_t> buckets = dataset_->buckets();
  std::vector<int64_t> indices;
  for (int64_t i = 0; i < dataset_->size() && static_cast<int64_t>(indices.size()) < count; ++i)
    if (buckets.empty() || buckets[static_cast<std::size_t>(i)] == buckets.front()) indices.push_back(i);
  return dataset_->get_batch(indices);
}

TrainingResult TrainImages::train(Trainer& trainer, const Dataset* held_out) const {
  if (shards_) return held_out != nullptr ? trainer.train(*shards_, *held_out) : trainer.train(*shards_);
  return held_out != nullptr ? trainer.train(*dataset_, *held_out) : trainer.train(*dataset_);
}

TrainImages open_train_images(const ShardSettings& settings, const std::string& folder,
                              ImageFolderOptions options, int64_t num_classes) {
  if (settings.is_given()) {
    TarDatasetOptions of_shards{.resolution = options.resolution,
                                .center_crop = options.center_crop,
                                .random_flip = options.random_flip,
                                .caption_column = options.caption_column,
                                .num_classes = num_classes,
                                .channels = options.channels,
                                .image_interpolation_mode = options.image_interpolation_mode,
                                .shuffle_buffer_size = settings.shuffle_buffer_size,
                                .num_samples = settings.num_train_samples};
    auto shards = std::make_unique<TarDataset>(settings.train_shards, of_shards);
    of_shards.shuffle_buffer_size = 0;
    of_shards.shuffle_shards = false;
    return {std::move(shards), std::make_unique<TarDataset>(settings.train_shards, of_shards)};
  }
  options.enable_bucketing = settings.enable_bucketing;
  options.bucket_step = settings.bucket_step;
  return TrainImages(std::make_unique<ImageFolder>(folder, options));
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

TrainImages open_train_images(const DataSettings& settings, const ImageFolderOptions& options) {
  if (settings.is_idx()) return TrainImages(open_images(settings, options));
  ImageFolderOptions complete = options;
  complete.center_crop = settings.center_crop;
  complete.random_flip = settings.random_flip;
  return open_train_images(settings.shards, settings.folder(), complete, settings.num_classes);
}

TrainingData open_training_data(const DataSettings& settings, int64_t resolution, int64_t channels) {
  if (!settings.is_idx() && channels != 1 && channels != 3)
    throw ConfigError("--model_config_name_or_path: the model has in_channels " + std::to_string(channels) +
                      ", expected 1 (gray) or 3 (RGB) for image files");
  const ImageFolderOptions options{.resolution = resolution, .channels = channels};
  TrainingData data;
  data.channels = settings.is_idx() ? 1 : channels;
  data.train = open_train_images(settings, options);
  data.num_classes = data.train.class_count();
  if (!settings.is_idx()) return data;
  data.held_out = open_images(settings, options, Split::kTest);
  data.num_classes = std::max(data.num_classes, data.held_out->class_count());
  return data;
}

TrainingConfig trainer_config(const TrainingConfig& config, const ShardSettings& settings) {
  TrainingConfig result = config;
  if (settings.enable_bucketing) result.resolution.reset();
  return result;
}

int64_t steps_per_epoch(int64_t samples, const TrainingConfig& config) {
  const auto ratio_up = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  const int64_t batch_size = config.train_batch_size * training_group().world_size();
  return ratio_up(ratio_up(samples, batch_size), config.gradient_accumulation_steps);
}

int64_t steps_per_epoch(const TrainImages& data, const TrainingConfig& config, const std::string& what) {
  const std::optional<int64_t> size = data.size();
  if (!size)
    throw ConfigError(what +
                      " counts in epochs, but the number of samples of --train_shards is not known; expected "
                      "--num_train_samples, or a flag that counts in steps");
  return steps_per_epoch(*size, config);
}

#include <algorithm>
#include <array>

#include <diffusers/data/dreambooth_dataset.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "data/transforms.h"

namespace diffusers {
namespace {

ImageFolderOptions picture_options_of(const DreamBoothDatasetOptions& options, int64_t max_samples) {
  return {.resolution = options.resolution,
          .center_crop = options.center_crop,
          .random_flip = options.random_flip,
          .max_samples = max_samples,
          .image_interpolation_mode = options.image_interpolation_mode};
}

/// Reads one image for each index, counted modulo the number of images. Each round has its own crops.
Batch read_rounds(const ImageFolder& images, std::span<const int64_t> indices, const std::string& prompt,
                  uint64_t augmentation_seed) {
  std::vector<Batch> rows;
  for (const int64_t index : indices) {
    const int64_t position = index % images.size();
    const int64_t round = index / images.size();
    // 0 is the seed outside of training, whatever the round.
    const uint64_t seed = augmentation_seed == 0 || round == 0
                              ? augmentation_seed
                              : ExampleRandom::mix(augmentation_seed + static_cast<uint64_t>(round));
    const Batch read = images.get_batch(std::array{position}, seed);
    rows.push_back({.images = read.images,
                    .captions = {prompt},
                    .original_sizes = read.original_sizes,
                    .crop_top_lefts = read.crop_top_lefts});
  }
  return collate(rows);
}

}  // namespace

DreamBoothDataset::DreamBoothDataset(const std::filesystem::path& instance_data_dir,
                                     const DreamBoothDatasetOptions& options)
    : options_(options) {
  require<ConfigError>(!options.instance_prompt.empty(),
                       "instance_prompt is empty, expected the caption of the instance images, such as \"a "
                       "photo of sks dog\"");
  require<ConfigError>(options.repeats >= 1, "repeats is {}, expected 1 or more", options.repeats);
  require<ConfigError>(options.num_class_images >= 0, "num_class_images is {}, expected 0 (all) or more",
                       options.num_class_images);
  const bool has_class = !options.class_data_dir.empty();
  require<ConfigError>(!has_class || !options.class_prompt.empty(),
                       "class_data_dir is {}, but class_prompt is empty; expected the caption of the class "
                       "images, such as \"a photo of a dog\"",
                       options.class_data_dir.string());
  require<ConfigError>(
      has_class || options.class_prompt.empty(),
      "class_prompt is \"{}\", but class_data_dir is empty; expected the folder of the class "
      "images",
      options.class_prompt);
  require<ConfigError>(
      has_class || options.num_class_images == 0,
      "num_class_images is {}, but class_data_dir is empty; expected the folder of the class "
      "images",
      options.num_class_images);
  instance_images_ = std::make_shared<ImageFolder>(instance_data_dir, picture_options_of(options, 0));
  if (has_class)
    class_images_ = std::make_shared<ImageFolder>(options.class_data_dir,
                                                  picture_options_of(options, options.num_class_images));
}

int64_t DreamBoothDataset::size() const {
  const int64_t instances = instance_images_->size() * options_.repeats;
  return class_images_ ? std::max(instances, class_images_->size()) : instances;
}

std::vector<std::string> DreamBoothDataset::class_files() const {
  return class_images_ ? class_images_->files() : std::vector<std::string>();
}

Batch DreamBoothDataset::get_batch(std::span<const int64_t> indices, uint64_t augmentation_seed) const {
  const Tensor positions = checked_indices(indices, size());
  if (indices.empty()) return instance_images_->get_batch(indices, augmentation_seed);
  Batch instances = read_rounds(*instance_images_, indices, options_.instance_prompt, augmentation_seed);
  instances.indices = positions;
  if (!class_images_) return instances;
  Batch classes = read_rounds(*class_images_, indices, options_.class_prompt,
                              augmentation_seed == 0 ? 0 : ExampleRandom::mix(augmentation_seed));
  classes.indices = positions + size();
  instances.is_prior = at::zeros({positions.size(0)}, at::kBool);
  classes.is_prior = at::ones({positions.size(0)}, at::kBool);
  return collate(std::array{instances, classes});
}

}  // namespace diffusers

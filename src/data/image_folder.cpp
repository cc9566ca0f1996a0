#include <cstdlib>
#include <utility>

#include <diffusers/data/image_folder.h>
#include <diffusers/io/image.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "data/image_buckets.h"
#include "data/image_crop.h"
#include "data/image_samples.h"
#include "data/resample.h"
#include "data/transforms.h"
#include "io/image_codec.h"
#include "io/open_model_file.h"

namespace diffusers {
namespace {

/// Reads an image as uint8 `[1, C, H, W]`.
Tensor read_picture(const ImageSamples& samples, const std::string& path, int64_t channels) {
  const LoadImageOptions options{.channels = channels, .exif_transpose = true};
  if (!samples.has_metadata) return load_image(path, options).unsqueeze(0);
  const std::string_view inside = std::string_view(path).substr(samples.root.size());
  return image_from_bytes(
             read_file_inside(samples.root, inside.substr(inside.find_first_not_of('/')), kMaxImageFile),
             path, options)
      .unsqueeze(0);
}

CropOptions crop_options(const ImageFolderOptions& options, const BucketSize& size) {
  return {.height = size.height,
          .width = size.width,
          .center_crop = options.center_crop,
          .random_flip = options.random_flip,
          .resize_to_square = options.resize_to_square,
          .mode = options.image_interpolation_mode};
}

/// Reads a companion of an image, such as its mask, with the same crop and flip.
Tensor read_companion(const ImageSamples& samples, const std::string& file, int64_t channels,
                      const Crop& crop, ImageInterpolation mode) {
  const Tensor image = read_picture(samples, file, channels);
  const int64_t ours = image.size(3) * crop.height;
  const int64_t theirs = crop.width * image.size(2);
  require<FileError>(std::abs(ours - theirs) * 50 <= theirs,
                     "{}: {} x {} pixels, but its image has {} x {}; expected the same aspect ratio", file,
                     image.size(3), image.size(2), crop.width, crop.height);
  return cut_image(resize_with(image, crop.resized_height, crop.resized_width, mode), crop);
}

/// Reads the images of one list of companions. Returns an undefined tensor if the list is empty.
Tensor read_companions(const ImageSamples& samples, const std::vector<std::string>& files,
                       std::span<const int64_t> indices, const std::vector<Crop>& crops, int64_t channels,
                       const BucketSize& size, ImageInterpolation mode) {
  if (files.empty()) return {};
  Tensor images =
      at::empty({static_cast<int64_t>(indices.size()), channels, size.height, size.width}, at::kByte);
  for (std::size_t i = 0; i < indices.size(); ++i)
    images.narrow(0, static_cast<int64_t>(i), 1)
        .copy_(
            read_companion(samples, files[static_cast<std::size_t>(indices[i])], channels, crops[i], mode));
  return images;
}

/// Returns the size of the images of a batch, whose samples must have one bucket.
BucketSize batch_size_of(const ImageSamples& samples, const ImageFolderOptions& options,
                         std::span<const int64_t> indices) {
  if (samples.buckets.empty() || indices.empty()) return {options.resolution, options.resolution};
  const int64_t bucket = samples.buckets[static_cast<std::size_t>(indices.front())];
  const BucketSize size = samples.bucket_sizes[static_cast<std::size_t>(bucket)];
  for (const int64_t index : indices) {
    const int64_t other = samples.buckets[static_cast<std::size_t>(index)];
    const BucketSize& found = samples.bucket_sizes[static_cast<std::size_t>(other)];
    require<TensorError>(other == bucket,
                         "sample {} has {} x {} pixels and sample {} has {} x {}; expected samples of one "
                         "bucket, see Dataset::buckets",
                         indices.front(), size.width, size.height, index, found.width, found.height);
  }
  return size;
}

}  // namespace

ImageFolder::ImageFolder(const std::filesystem::path& path, const ImageFolderOptions& options)
    : options_(options) {
  require<ConfigError>(options.resolution >= 1 && options.resolution <= 16384,
                       "resolution is {}, expected 1 to 16384", options.resolution);
  require<ConfigError>(options.channels == 1 || options.channels == 3, "channels is {}, expected 1 or 3",
                       options.channels);
  require<ConfigError>(options.max_samples >= 0, "max_samples is {}, expected 0 (all) or more",
                       options.max_samples);
  require<ConfigError>(
      !options.resize_to_square || !options.center_crop,
      "resize_to_square and center_crop are both true, but resize_to_square leaves nothing to "
      "crop; expected at most one of them");
  check_bucket_options(options);
  ImageSamples samples = find_image_samples(path.string(), options);
  if (options.enable_bucketing) sort_into_buckets(samples, options);
  samples_ = std::make_shared<const ImageSamples>(std::move(samples));
}

int64_t ImageFolder::size() const { return samples_->size(); }
int64_t ImageFolder::class_count() const { return samples_->class_count; }
const std::vector<std::string>& ImageFolder::classes() const { return samples_->classes; }
const std::vector<std::string>& ImageFolder::files() const { return samples_->files; }
const std::vector<std::string>& ImageFolder::skipped_files() const { return samples_->skipped_files; }

std::vector<int64_t> ImageFolder::buckets() const { return samples_->buckets; }

std::vector<std::pair<int64_t, int64_t>> ImageFolder::bucket_sizes() const {
  std::vector<std::pair<int64_t, int64_t>> sizes;
  for (const BucketSize& size : samples_->bucket_sizes) sizes.emplace_back(size.height, size.width);
  return sizes;
}

Batch ImageFolder::get_batch(std::span<const int64_t> indices, uint64_t augmentation_seed) const {
  const ImageSamples& samples = *samples_;
  Batch batch;
  batch.indices = checked_indices(indices, this->size());
  const BucketSize size = batch_size_of(samples, options_, indices);
  const CropOptions cropping = crop_options(options_, size);
  std::vector<Crop> crops(indices.size());
  Tensor images = at::empty({batch.indices.size(0), options_.channels, size.height, size.width}, at::kByte);
  for (std::size_t i = 0; i < indices.size(); ++i) {
    const std::string& file = samples.files[static_cast<std::size_t>(indices[i])];
    images.narrow(0, static_cast<int64_t>(i), 1)
        .copy_(crop_image(read_picture(samples, file, options_.channels), cropping,
                          ExampleRandom(augmentation_seed, indices[i]), file, crops[i]));
  }
  batch.images = to_signed_unit(images);

  const auto companions = [&](const std::vector<std::string>& files) {
    return read_companions(samples, files, indices, crops, options_.channels, size,
                           options_.image_interpolation_mode);
  };
  if (const Tensor pixels = companions(samples.conditioning_images); pixels.defined())
    batch.conditioning_images = to_unit(pixels);
  if (const Tensor pixels = companions(samples.original_images); pixels.defined())
    batch.original_images = to_signed_unit(pixels);
  if (const Tensor pixels = read_companions(samples, samples.masks, indices, crops, /*channels=*/1, size,
                                            ImageInterpolation::kBilinear);
      pixels.defined())
    batch.masks = pixels.ge(128).to(at::kFloat);

  batch.original_sizes = pairs_of(crops, [](const Crop& crop) { return std::pair(crop.height, crop.width); });
  batch.crop_top_lefts = pairs_of(crops, top_left_of);
  if (!samples.labels.empty()) {
    batch.class_labels = at::empty_like(batch.indices);
    auto* labels = batch.class_labels.mutable_data_ptr<int64_t>();
    for (const int64_t index : indices) *labels++ = samples.labels[static_cast<std::size_t>(index)];
  }
  if (!samples.captions.empty())
    for (const int64_t index : indices)
      batch.captions.push_back(
          chosen_caption(samples.captions[static_cast<std::size_t>(index)], index, augmentation_seed));
  return batch;
}

}  // namespace diffusers

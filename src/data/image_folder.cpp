#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <utility>

#include <diffusers/data/image_folder.h>
#include <diffusers/io/image.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "data/image_samples.h"
#include "data/resample.h"
#include "data/transforms.h"
#include "io/image_codec.h"
#include "io/open_model_file.h"

namespace diffusers {
namespace {

/// Arbitrary number that makes the choice of a caption independent of the crop.
constexpr uint64_t kCaptionStream = 0x63617074696f6e;

/// Resizing, crop and flip of an image.
struct Crop {
  int64_t height = 0, width = 0;  // of the image in the file
  int64_t resized_height = 0, resized_width = 0;
  int64_t top = 0, left = 0;  // in the resized image
  bool is_flipped = false;
};

/// Returns Python's int(round(x / 2)), which rounds halves to even.
int64_t rounded_half(int64_t value) {
  return static_cast<int64_t>(std::nearbyint(static_cast<double>(value) / 2.0));
}

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

Tensor cut(const Tensor& resized, const Crop& crop, int64_t resolution) {
  const Tensor square = resized.narrow(2, crop.top, resolution).narrow(3, crop.left, resolution);
  return crop.is_flipped ? square.flip({3}) : square;
}

/// Reads an image and draws its crop and flip.
Tensor read_main_image(const ImageSamples& samples, const ImageFolderOptions& options, int64_t index,
                       uint64_t augmentation_seed, Crop& crop) {
  const std::string& file = samples.files[static_cast<std::size_t>(index)];
  Tensor image = read_picture(samples, file, options.channels);
  crop.height = image.size(2);
  crop.width = image.size(3);
  const int64_t resolution = options.resolution;
  require<FileError>(std::max(crop.height, crop.width) / std::min(crop.height, crop.width) <= 1000,
                     "{}: {} x {} pixels, too long and narrow to cut a square from", file, crop.width,
                     crop.height);
  image = options.resize_to_square
              ? resize_with(image, resolution, resolution, options.image_interpolation_mode)
              : resize_shorter_side(image, resolution, options.image_interpolation_mode);
  crop.resized_height = image.size(2);
  crop.resized_width = image.size(3);
  ExampleRandom random(augmentation_seed, index);
  const int64_t spare_rows = crop.resized_height - resolution;
  const int64_t spare_columns = crop.resized_width - resolution;
  crop.top = options.center_crop ? rounded_half(spare_rows) : random.below(spare_rows + 1);
  crop.left = options.center_crop ? rounded_half(spare_columns) : random.below(spare_columns + 1);
  crop.is_flipped = options.random_flip && random.coin();
  return cut(image, crop, resolution);
}

/// Reads a companion of an image, such as its mask, with the same crop and flip.
Tensor read_companion(const ImageSamples& samples, const std::string& file, int64_t channels,
                      const Crop& crop, int64_t resolution, ImageInterpolation mode) {
  const Tensor image = read_picture(samples, file, channels);
  const int64_t ours = image.size(3) * crop.height;
  const int64_t theirs = crop.width * image.size(2);
  require<FileError>(std::abs(ours - theirs) * 50 <= theirs,
                     "{}: {} x {} pixels, but its image has {} x {}; expected the same aspect ratio", file,
                     image.size(3), image.size(2), crop.width, crop.height);
  return cut(resize_with(image, crop.resized_height, crop.resized_width, mode), crop, resolution);
}

/// Reads the images of one list of companions. Returns an undefined tensor if the list is empty.
Tensor read_companions(const ImageSamples& samples, const std::vector<std::string>& files,
                       std::span<const int64_t> indices, const std::vector<Crop>& crops, int64_t channels,
                       int64_t resolution, ImageInterpolation mode) {
  if (files.empty()) return {};
  Tensor images =
      at::empty({static_cast<int64_t>(indices.size()), channels, resolution, resolution}, at::kByte);
  for (std::size_t i = 0; i < indices.size(); ++i)
    images.narrow(0, static_cast<int64_t>(i), 1)
        .copy_(read_companion(samples, files[static_cast<std::size_t>(indices[i])], channels, crops[i],
                              resolution, mode));
  return images;
}

/// Returns `[N, 2]` int64 with two numbers for each crop.
template <class Pair>
Tensor pairs_of(const std::vector<Crop>& crops, const Pair& pair) {
  Tensor pairs = at::empty({static_cast<int64_t>(crops.size()), 2}, at::kLong);
  auto* out = pairs.mutable_data_ptr<int64_t>();
  for (const Crop& crop : crops) {
    const auto [first, second] = pair(crop);
    *out++ = first;
    *out++ = second;
  }
  return pairs;
}

const std::string& chosen_caption(const std::vector<std::string>& captions, int64_t index,
                                  uint64_t augmentation_seed) {
  if (captions.size() == 1 || augmentation_seed == 0) return captions.front();
  ExampleRandom random(ExampleRandom::mix(augmentation_seed) ^ kCaptionStream, index);
  return captions[static_cast<std::size_t>(random.below(static_cast<int64_t>(captions.size())))];
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
  samples_ = std::make_shared<const ImageSamples>(find_image_samples(path.string(), options));
}

int64_t ImageFolder::size() const { return samples_->size(); }
int64_t ImageFolder::class_count() const { return samples_->class_count; }
const std::vector<std::string>& ImageFolder::classes() const { return samples_->classes; }
const std::vector<std::string>& ImageFolder::files() const { return samples_->files; }
const std::vector<std::string>& ImageFolder::skipped_files() const { return samples_->skipped_files; }

Batch ImageFolder::get_batch(std::span<const int64_t> indices, uint64_t augmentation_seed) const {
  const ImageSamples& samples = *samples_;
  const int64_t resolution = options_.resolution;
  Batch batch;
  batch.indices = checked_indices(indices, size());
  std::vector<Crop> crops(indices.size());
  Tensor images = at::empty({batch.indices.size(0), options_.channels, resolution, resolution}, at::kByte);
  for (std::size_t i = 0; i < indices.size(); ++i)
    images.narrow(0, static_cast<int64_t>(i), 1)
        .copy_(read_main_image(samples, options_, indices[i], augmentation_seed, crops[i]));
  batch.images = to_signed_unit(images);

  const auto companions = [&](const std::vector<std::string>& files) {
    return read_companions(samples, files, indices, crops, options_.channels, resolution,
                           options_.image_interpolation_mode);
  };
  if (const Tensor pixels = companions(samples.conditioning_images); pixels.defined())
    batch.conditioning_images = to_unit(pixels);
  if (const Tensor pixels = companions(samples.original_images); pixels.defined())
    batch.original_images = to_signed_unit(pixels);
  if (const Tensor pixels = read_companions(samples, samples.masks, indices, crops, /*channels=*/1,
                                            resolution, ImageInterpolation::kBilinear);
      pixels.defined())
    batch.masks = pixels.ge(128).to(at::kFloat);

  batch.original_sizes = pairs_of(crops, [](const Crop& crop) { return std::pair(crop.height, crop.width); });
  // In the flipped image, the left edge is the right edge of the crop.
  batch.crop_top_lefts = pairs_of(crops, [&](const Crop& crop) {
    return std::pair(crop.top, crop.is_flipped ? crop.resized_width - resolution - crop.left : crop.left);
  });
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

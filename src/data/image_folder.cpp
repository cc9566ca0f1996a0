#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>

#include <diffusers/core/logging.h>
#include <diffusers/data/image_folder.h>
#include <diffusers/io/files.h>
#include <diffusers/io/image.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "data/transforms.h"
#include "io/posix_file.h"

namespace diffusers {
namespace {

/// Links may form a circle.
constexpr int kDeepestFolder = 32;

std::string lower_extension(const std::string& name) {
  const auto dot = name.rfind('.');
  std::string extension = dot == std::string::npos ? "" : name.substr(dot);
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return extension;
}

bool is_image_name(const std::string& name) {
  const std::string extension = lower_extension(name);
  return extension == ".png" || extension == ".jpg" || extension == ".jpeg";
}

/// Whether Pillow would read it, and this library does not.
bool is_other_image_name(const std::string& name) {
  constexpr std::array<std::string_view, 20> kExtensions{
      ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".apng", ".avif", ".heic", ".heif",
      ".jfif", ".jpe", ".jp2", ".jxl", ".pbm", ".pgm",  ".ppm",  ".pnm",  ".ico",  ".tga"};
  return std::find(kExtensions.begin(), kExtensions.end(), lower_extension(name)) != kExtensions.end();
}

/// "3 files in other image formats: a.webp, b.gif, c.bmp"
std::string describe_skipped(const std::vector<std::string>& names) {
  constexpr std::size_t kMostShown = 8;
  std::string text =
      fmt::format("{} {} in other image formats: ", names.size(), names.size() == 1 ? "file" : "files");
  for (std::size_t i = 0; i < std::min(names.size(), kMostShown); ++i)
    text += fmt::format("{}{}", i == 0 ? "" : ", ", escaped(names[i]));
  if (names.size() > kMostShown) text += fmt::format(" and {} more", names.size() - kMostShown);
  return text;
}

/// Python's int(round(x / 2)): halves go to the even neighbour.
int64_t rounded_half(int64_t value) {
  return static_cast<int64_t>(std::nearbyint(static_cast<double>(value) / 2.0));
}

}  // namespace

ImageFolder::ImageFolder(const std::string& path, const ImageFolderOptions& options) : options_(options) {
  require<ConfigError>(options.resolution >= 1 && options.resolution <= 16384,
                       "resolution is {}, expected 1 to 16384", options.resolution);
  require<ConfigError>(options.channels == 1 || options.channels == 3, "channels is {}, expected 1 or 3",
                       options.channels);
  require<ConfigError>(options.max_samples >= 0, "max_samples is {}, expected 0 (all) or more",
                       options.max_samples);
  require<FileError>(folder_exists(path), "{}: there is no such folder", path);

  std::vector<std::string> folders;
  for (const auto& name : list_folder(path)) {
    const std::string inner = join_path(path, name);
    if (name.starts_with(".")) continue;
    if (folder_exists(inner)) {
      folders.push_back(name);
    } else if (is_image_name(name)) {
      files_.push_back(inner);
    } else if (is_other_image_name(name)) {
      skipped_files_.push_back(name);
    }
  }
  const std::size_t direct = files_.size();
  for (const auto& name : folders) {
    const std::size_t before = files_.size();
    add_files(path, name, static_cast<int64_t>(classes_.size()), 1);
    if (files_.size() > before) classes_.push_back(name);
  }
  require<FileError>(!files_.empty(), "{}: no PNG or JPEG files there{}", path,
                     skipped_files_.empty() ? "" : "; " + describe_skipped(skipped_files_));
  if (!skipped_files_.empty())
    warn_once(fmt::format("{}: only PNG and JPEG files are read; skipped {}", path,
                          describe_skipped(skipped_files_)));
  require<FileError>(direct == 0 || classes_.empty(),
                     "{}: {} images lie in the folder and {} in sub-folders such as {}, so they have no "
                     "common kind of label",
                     path, direct, files_.size() - direct, classes_.empty() ? "" : classes_.front());
  if (options.max_samples > 0 && options.max_samples < size()) {
    files_.resize(static_cast<std::size_t>(options.max_samples));
    labels_.resize(std::min(labels_.size(), files_.size()));
  }
}

void ImageFolder::add_files(const std::string& path, const std::string& folder, int64_t label, int depth) {
  require<FileError>(depth <= kDeepestFolder, "{}: more than {} folders deep", join_path(path, folder),
                     kDeepestFolder);
  for (const auto& name : list_folder(join_path(path, folder))) {
    if (name.starts_with(".")) continue;
    const std::string in_path = join_path(folder, name);
    const std::string inner = join_path(path, in_path);
    if (folder_exists(inner)) {
      add_files(path, in_path, label, depth + 1);
    } else if (is_image_name(name)) {
      files_.push_back(inner);
      labels_.push_back(label);
    } else if (is_other_image_name(name)) {
      skipped_files_.push_back(in_path);
    }
  }
}

Tensor ImageFolder::read(int64_t index, uint64_t augmentation_seed) const {
  const std::string& file = files_[static_cast<std::size_t>(index)];
  Tensor image = load_image(file, {.channels = options_.channels, .exif_transpose = true}).unsqueeze(0);
  const int64_t resolution = options_.resolution;
  const int64_t shorter = std::min(image.size(2), image.size(3));
  const int64_t longer = std::max(image.size(2), image.size(3));
  require<FileError>(longer / shorter <= 1000, "{}: {} x {} pixels, too long and narrow to cut a square from",
                     file, image.size(3), image.size(2));
  image = resize_shorter_side(image, resolution);
  ExampleRandom random(augmentation_seed, index);
  const int64_t spare_rows = image.size(2) - resolution;
  const int64_t spare_columns = image.size(3) - resolution;
  const int64_t top = options_.center_crop ? rounded_half(spare_rows) : random.below(spare_rows + 1);
  const int64_t left = options_.center_crop ? rounded_half(spare_columns) : random.below(spare_columns + 1);
  image = image.narrow(2, top, resolution).narrow(3, left, resolution);
  if (options_.random_flip && random.coin()) image = image.flip({3});
  return image;
}

Batch ImageFolder::get_batch(std::span<const int64_t> indices, uint64_t augmentation_seed) const {
  const Tensor positions = checked_indices(indices, size());
  Batch batch;
  Tensor images =
      at::empty({positions.size(0), options_.channels, options_.resolution, options_.resolution}, at::kByte);
  for (std::size_t i = 0; i < indices.size(); ++i)
    images.narrow(0, static_cast<int64_t>(i), 1).copy_(read(indices[i], augmentation_seed));
  batch.images = to_signed_unit(images);
  if (!labels_.empty()) {
    batch.class_labels = at::empty_like(positions);
    auto* labels = batch.class_labels.mutable_data_ptr<int64_t>();
    for (const int64_t index : indices) *labels++ = labels_[static_cast<std::size_t>(index)];
  }
  return batch;
}

}  // namespace diffusers

#include "data/image_samples.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <string_view>

#include <diffusers/core/logging.h>
#include <diffusers/io/files.h>

#include "core/require.h"
#include "io/posix_file.h"

namespace diffusers {
inline namespace internal {
namespace {

/// Deepest level of sub-folders. The limit is needed because links may form a cycle.
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

bool is_metadata_name(const std::string& name) {
  return name == "metadata.jsonl" || name == "metadata.csv" || name == "metadata.parquet";
}

/// Formats a message such as "3 files in other image formats: a.webp, b.gif, c.bmp".
std::string describe_skipped(const std::vector<std::string>& names) {
  constexpr std::size_t kMostShown = 8;
  std::string text =
      fmt::format("{} {} in other image formats: ", names.size(), names.size() == 1 ? "file" : "files");
  for (std::size_t i = 0; i < std::min(names.size(), kMostShown); ++i)
    text += fmt::format("{}{}", i == 0 ? "" : ", ", escaped(names[i]));
  if (names.size() > kMostShown) text += fmt::format(" and {} more", names.size() - kMostShown);
  return text;
}

/// The files below a folder, as paths relative to it.
struct FoundFiles {
  std::vector<std::string> images, others, metadata;
};

void find_files(const std::string& root, const std::string& folder, int depth, FoundFiles& found) {
  require<FileError>(depth <= kDeepestFolder, "{}: more than {} folders deep", join_path(root, folder),
                     kDeepestFolder);
  for (const auto& name : list_folder(join_path(root, folder))) {
    if (name.starts_with(".")) continue;
    const std::string path = join_path(folder, name);
    if (folder_exists(join_path(root, path))) {
      find_files(root, path, depth + 1, found);
    } else if (is_image_name(name)) {
      found.images.push_back(path);
    } else if (is_other_image_name(name)) {
      found.others.push_back(path);
    } else if (is_metadata_name(name)) {
      found.metadata.push_back(path);
    }
  }
}

/// Makes samples whose classes are the names of the sub-folders.
ImageSamples samples_by_folder(const std::string& root, FoundFiles found) {
  require<FileError>(!found.images.empty(), "{}: no PNG or JPEG files there{}", root,
                     found.others.empty() ? "" : "; " + describe_skipped(found.others));
  if (!found.others.empty())
    warn_once(fmt::format("{}: only PNG and JPEG files are read; skipped {}", root,
                          describe_skipped(found.others)));
  ImageSamples samples;
  samples.skipped_files = std::move(found.others);
  for (const std::string& image : found.images) {
    samples.files.push_back(join_path(root, image));
    const auto slash = image.find('/');
    if (slash == std::string::npos) continue;
    const std::string name = image.substr(0, slash);
    if (samples.classes.empty() || samples.classes.back() != name) samples.classes.push_back(name);
    samples.labels.push_back(static_cast<int64_t>(samples.classes.size()) - 1);
  }
  samples.class_count = static_cast<int64_t>(samples.classes.size());
  require<FileError>(samples.labels.empty() || samples.labels.size() == samples.files.size(),
                     "{}: {} images lie in the folder and {} in sub-folders such as {}, so they have no "
                     "common kind of label",
                     root, samples.files.size() - samples.labels.size(), samples.files.size(),
                     samples.classes.empty() ? "" : samples.classes.front());
  return samples;
}

void require_no_columns(const std::string& root, const ImageFolderOptions& options) {
  const std::array<std::pair<const char*, const std::string*>, 6> columns{
      {{"image_column", &options.image_column},
       {"caption_column", &options.caption_column},
       {"conditioning_image_column", &options.conditioning_image_column},
       {"original_image_column", &options.original_image_column},
       {"mask_column", &options.mask_column},
       {"label_column", &options.label_column}}};
  for (const auto& [option, column] : columns)
    require<ConfigError>(column->empty(),
                         "{} is {}, but {} holds no metadata.jsonl or metadata.csv with such a column",
                         option, escaped(*column), root);
}

template <class List>
void keep_first(List& list, std::size_t count) {
  list.resize(std::min(list.size(), count));
}

}  // namespace

bool is_other_image_name(const std::string& name) {
  constexpr std::array<std::string_view, 20> kExtensions{
      ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".apng", ".avif", ".heic", ".heif",
      ".jfif", ".jpe", ".jp2", ".jxl", ".pbm", ".pgm",  ".ppm",  ".pnm",  ".ico",  ".tga"};
  return std::find(kExtensions.begin(), kExtensions.end(), lower_extension(name)) != kExtensions.end();
}

ImageSamples find_image_samples(const std::string& path, const ImageFolderOptions& options) {
  require<FileError>(folder_exists(path), "{}: there is no such folder", path);
  FoundFiles found;
  find_files(path, "", 0, found);
  ImageSamples samples;
  if (found.metadata.empty()) {
    samples = samples_by_folder(path, std::move(found));
    require_no_columns(path, options);
  } else {
    samples = read_image_metadata(path, found.metadata, options);
  }
  samples.root = path;
  if (options.max_samples > 0 && options.max_samples < samples.size()) {
    const auto count = static_cast<std::size_t>(options.max_samples);
    for (auto* list :
         {&samples.files, &samples.conditioning_images, &samples.original_images, &samples.masks})
      keep_first(*list, count);
    keep_first(samples.labels, count);
    keep_first(samples.captions, count);
  }
  return samples;
}

}  // namespace internal
}  // namespace diffusers

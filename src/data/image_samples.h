#pragma once

// Finds the samples of a folder of images.

#include <cstdint>
#include <string>
#include <vector>

#include <diffusers/data/image_folder.h>

namespace diffusers {
inline namespace internal {

/// Size of the images of a bucket.
struct BucketSize {
  int64_t height = 0, width = 0;
};

/// The samples of an ImageFolder. Each list is empty or has one entry for each sample. All paths start with
/// `root`. Only metadata can give conditioning images, original images and masks.
struct ImageSamples {
  std::string root;           ///< the folder
  bool has_metadata = false;  ///< metadata named the files, so their paths are not trusted
  std::vector<std::string> files;
  std::vector<int64_t> labels;
  std::vector<std::vector<std::string>> captions;
  std::vector<std::string> conditioning_images;
  std::vector<std::string> original_images;
  std::vector<std::string> masks;
  std::vector<std::string> classes;  ///< class names by label
  int64_t class_count = 0;
  std::vector<std::string> skipped_files;
  std::vector<BucketSize> bucket_sizes;  ///< with bucketing: the sizes that images may have
  std::vector<int64_t> buckets;          ///< bucket of each sample; empty without bucketing

  int64_t size() const { return static_cast<int64_t>(files.size()); }
};

/// Finds the samples of a folder.
/// @throws FileError, ConfigError as ImageFolder
ImageSamples find_image_samples(const std::string& path, const ImageFolderOptions& options);

/// Reads the samples that the rows of metadata files name.
/// @param files paths of the metadata files below `root`
/// @throws FileError naming file, line and column
ImageSamples read_image_metadata(const std::string& root, const std::vector<std::string>& files,
                                 const ImageFolderOptions& options);

/// Returns true if Pillow reads files with this extension, but this library does not.
bool is_other_image_name(const std::string& name);

}  // namespace internal
}  // namespace diffusers

#pragma once

// Which samples a folder of pictures holds.

#include <cstdint>
#include <string>
#include <vector>

#include <diffusers/data/image_folder.h>

namespace diffusers {
inline namespace internal {

/// The samples of an ImageFolder. A list that is not empty has an entry for each sample. Metadata give the
/// three lists of further images; their paths, too, start with `root`.
struct ImageSamples {
  std::string root;           ///< the folder
  bool has_metadata = false;  ///< the files were named by metadata, so that they are opened with care
  std::vector<std::string> files;
  std::vector<int64_t> labels;
  std::vector<std::vector<std::string>> captions;
  std::vector<std::string> conditioning_images;
  std::vector<std::string> original_images;
  std::vector<std::string> masks;
  std::vector<std::string> classes;  ///< names by label
  int64_t class_count = 0;
  std::vector<std::string> skipped_files;

  int64_t size() const { return static_cast<int64_t>(files.size()); }
};

/// Finds the samples of a folder.
/// @throws FileError and ConfigError as ImageFolder
ImageSamples find_image_samples(const std::string& path, const ImageFolderOptions& options);

/// The samples that the rows of metadata files name.
/// @param files paths of the metadata files below `root`
/// @throws FileError naming file, line and column
ImageSamples read_image_metadata(const std::string& root, const std::vector<std::string>& files,
                                 const ImageFolderOptions& options);

/// Returns whether Pillow would read a file of this name, and this library does not.
bool is_other_image_name(const std::string& name);

}  // namespace internal
}  // namespace diffusers

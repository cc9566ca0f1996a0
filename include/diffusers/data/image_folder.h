#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <diffusers/data/dataset.h>

namespace diffusers {

/// Named as the flags of diffusers' `train_unconditional.py`.
struct ImageFolderOptions {
  int64_t resolution = 64;   ///< the shorter side is resized to it, then a square of it is cut out
  bool center_crop = false;  ///< cut from the middle instead of at random
  bool random_flip = false;  ///< mirror every other image
  int64_t channels = 3;      ///< 3 for RGB, 1 for gray
  int64_t max_samples = 0;   ///< keep the first so many; 0 keeps all
};

/// The PNG and JPEG files in a folder, sorted by name. Where they lie in sub-folders, the names of these,
/// sorted, are the classes. Hidden files and files of other types are left out; a warning lists those of
/// other image formats. Images are read when they are asked for; those that a camera marked as turned (EXIF)
/// are put upright, as in Python's `datasets`.
class ImageFolder : public Dataset {
 public:
  /// @throws FileError if the folder is missing, holds no images, or holds images both directly and in
  /// sub-folders
  explicit ImageFolder(const std::string& path, const ImageFolderOptions& options = {});

  int64_t size() const override { return static_cast<int64_t>(files_.size()); }
  int64_t class_count() const override { return static_cast<int64_t>(classes_.size()); }
  /// images `[B, channels, resolution, resolution]` float32 in [-1, 1]; class_labels `[B]` int64, undefined
  /// without sub-folders. The crop and the flip of an example are drawn from (augmentation_seed, its index).
  /// @throws FileError naming a file that cannot be read
  Batch get_batch(std::span<const int64_t> indices, uint64_t augmentation_seed = 0) const override;

  /// Names of the sub-folders, by label; empty without sub-folders.
  const std::vector<std::string>& classes() const { return classes_; }
  const std::vector<std::string>& files() const { return files_; }
  /// Files in other image formats (WebP, BMP, GIF, TIFF, ...), by their names in the folder; they are not
  /// read.
  const std::vector<std::string>& skipped_files() const { return skipped_files_; }

 private:
  void add_files(const std::string& path, const std::string& folder, int64_t label, int depth);
  Tensor read(int64_t index, uint64_t augmentation_seed) const;

  ImageFolderOptions options_;
  std::vector<std::string> classes_;
  std::vector<std::string> files_;
  std::vector<std::string> skipped_files_;
  std::vector<int64_t> labels_;
};

}  // namespace diffusers

#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <diffusers/core/enum_choice.h>
#include <diffusers/data/dataset.h>
#include <diffusers/data/image_folder.h>

namespace diffusers {

/// Options of a `DreamBoothDataset`. They have the names of the flags of diffusers' DreamBooth scripts.
struct DreamBoothDatasetOptions {
  /// Caption of each instance image, such as "a photo of sks dog".
  std::string instance_prompt = {};
  /// Folder of the class images. Empty: the dataset has instance images only.
  std::filesystem::path class_data_dir = {};
  /// Caption of each class image, such as "a photo of a dog". Needed with `class_data_dir`.
  std::string class_prompt = {};
  /// Uses only the first `num_class_images` class images. 0 uses all.
  int64_t num_class_images = 0;
  /// Number of times that each instance image is used in an epoch, 1 or more.
  int64_t repeats = 1;
  /// Side of the images in pixels, 1 to 16384. The shorter side is resized to it, then a square is cropped.
  int64_t resolution = 512;
  /// Crops the square at the center. The default crops at a random position.
  bool center_crop = false;
  /// Flips each image horizontally with a probability of 1/2.
  bool random_flip = false;
  /// Filter with which images are resized.
  EnumChoice<ImageInterpolation> image_interpolation_mode = ImageInterpolation::kBilinear;
};

/// The images of DreamBooth (Ruiz et al. 2022; class `DreamBoothDataset` of diffusers'
/// `train_dreambooth.py`): images of an instance, and images of its class for prior preservation. Sample i is
/// instance image i, counted modulo the number of instance images, and class image i, counted likewise. The
/// dataset has as many samples as there are instance images times `repeats`, or class images, whichever is
/// more.
///
/// With class images, a batch of B samples has 2 B rows: the instances, then the class images.
/// `Batch::is_prior` tells them apart. `train_batch_size` counts samples, as in Python. TextToImageTask and
/// TextToImageLoraTask weigh the losses of the class images by `prior_loss_weight`.
/// @code
/// DreamBoothDataset data("dog", {.instance_prompt = "a photo of sks dog", .class_data_dir = "dogs",
///                                .class_prompt = "a photo of a dog"});
/// @endcode
/// The folders are read as `ImageFolder` reads them. Python lists the files in the order of the file system,
/// this class sorts them by name.
class DreamBoothDataset : public Dataset {
 public:
  /// Lists the images.
  /// @param instance_data_dir folder of the instance images
  /// @param options see DreamBoothDatasetOptions; `instance_prompt` must be set
  /// @throws ConfigError naming an option that is missing, out of range or without effect; FileError if a
  ///         folder is missing or has no images
  explicit DreamBoothDataset(const std::filesystem::path& instance_data_dir,
                             const DreamBoothDatasetOptions& options);

  /// Returns the number of samples, each of which has an instance image and maybe a class image.
  int64_t size() const override;
  /// Reads samples. The crop and the flip of an image depend only on `augmentation_seed` and the positions of
  /// the image and of the sample.
  /// @param indices positions, each in [0, size())
  /// @param augmentation_seed see `Dataset::get_batch`
  /// @return a batch of B = `indices.size()` rows, with class images of 2 B rows, with
  ///         - images `[rows, 3, resolution, resolution]` float32 in [-1, 1]
  ///         - captions: the prompts
  ///         - original_sizes and crop_top_lefts `[rows, 2]` int64, of each image. (Python passes those of
  ///         the
  ///           instance for the class image, too.)
  ///         - indices `[rows]` int64; those of class images are `size()` larger
  ///         - with class images, is_prior `[rows]` bool: false for the first half, true for the second
  /// @throws FileError naming a file that cannot be read
  Batch get_batch(std::span<const int64_t> indices, uint64_t augmentation_seed = 0) const override;

  /// Returns true if the dataset has class images.
  bool has_class_images() const { return class_images_ != nullptr; }
  /// Returns the path of each instance image.
  const std::vector<std::string>& instance_files() const { return instance_images_->files(); }
  /// Returns the path of each class image that is used; empty without class images.
  std::vector<std::string> class_files() const;

 private:
  DreamBoothDatasetOptions options_;
  std::shared_ptr<const ImageFolder> instance_images_;
  std::shared_ptr<const ImageFolder> class_images_;  // null: none
};

}  // namespace diffusers

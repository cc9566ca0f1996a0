#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/enum_choice.h>
#include <diffusers/data/dataset.h>

namespace diffusers {

/// Filter with which an image is resized. All but "bilinear" give the pixels of Pillow's `Image.resize`.
enum class ImageInterpolation {
  kNearest,       ///< the nearest pixel
  kNearestExact,  ///< as `kNearest`
  kBilinear,      ///< triangle filter, with antialiasing; at most one level from Pillow's pixels
  kBicubic,       ///< cubic filter, with antialiasing
  kBox,           ///< mean of the pixels
  kHamming,       ///< Hamming filter, with antialiasing
  kLanczos        ///< Lanczos filter of three lobes, with antialiasing
};

/// The strings of the enumerators of ImageInterpolation, which are those of the flag
/// `--image_interpolation_mode` of diffusers' scripts.
template <>
struct EnumNames<ImageInterpolation> {
  /// Name of the option in error messages.
  static constexpr std::string_view kKey = "image_interpolation_mode";
  /// Enumerators and their strings.
  static constexpr std::array<std::pair<ImageInterpolation, std::string_view>, 7> kTable{
      {{ImageInterpolation::kNearest, "nearest"},
       {ImageInterpolation::kNearestExact, "nearest_exact"},
       {ImageInterpolation::kBilinear, "bilinear"},
       {ImageInterpolation::kBicubic, "bicubic"},
       {ImageInterpolation::kBox, "box"},
       {ImageInterpolation::kHamming, "hamming"},
       {ImageInterpolation::kLanczos, "lanczos"}}};
};

/// Options of an `ImageFolder`. They have the names of the flags of diffusers' training scripts. A
/// `..._column` names a column of the folder's metadata. A column that the metadata does not have is an
/// error.
struct ImageFolderOptions {
  /// Side of the images in pixels, 1 to 16384. The shorter side is resized to it, then a square is cropped.
  int64_t resolution = 64;
  /// Crops the square at the center. The default crops at a random position.
  bool center_crop = false;
  /// Flips each image horizontally with a probability of 1/2.
  bool random_flip = false;
  /// Column of the captions: strings or lists of strings. Empty: "text", if the metadata has it.
  std::string caption_column = {};
  /// Column of the conditioning images (file names). Empty: none.
  std::string conditioning_image_column = {};
  /// Column of the images before editing (file names). Empty: none.
  std::string original_image_column = {};
  /// Column of the inpainting masks (file names), white where an image is to be inpainted. Empty: none.
  std::string mask_column = {};
  /// Column of the class labels: numbers from 0 or names. Empty: "label", if the metadata has it.
  std::string label_column = {};
  /// Channels of all images except masks: 3 for RGB, 1 for gray.
  int64_t channels = 3;
  /// Uses only the first `max_samples` samples. 0 uses all.
  int64_t max_samples = 0;
  /// Filter with which images are resized. Masks are always resized with "bilinear".
  EnumChoice<ImageInterpolation> image_interpolation_mode = ImageInterpolation::kBilinear;
  /// Column of the images (file names). Empty: "file_name".
  std::string image_column = {};
  /// Resizes each image as a whole to a square, which changes its aspect ratio, and crops nothing, as
  /// diffusers' `textual_inversion.py` and `train_instruct_pix2pix.py` do. Not with `center_crop`.
  bool resize_to_square = false;
  /// Sorts the images into aspect-ratio buckets. An image is resized to cover the size of its bucket and
  /// cropped to it, so that less is cut off than from a square. The constructor then reads the size of each
  /// image. The area of a bucket is at most that of the square. Its sides are multiples of `bucket_step`,
  /// between half and twice the resolution.
  bool enable_bucketing = false;
  /// Sides of the buckets are multiples of this number, 1 to `resolution`. Needs `enable_bucketing`.
  int64_t bucket_step = 64;
};

inline namespace internal {
/// The samples of a folder. The type is private to the library (src/data/image_samples.h).
struct ImageSamples;
}  // namespace internal

/// A dataset of the PNG and JPEG files in a folder. It reads the layout of the imagefolder builder of
/// Python's `datasets`.
///
/// **With metadata.** If the folder or a folder below it holds a `metadata.jsonl` or `metadata.csv`, each of
/// its rows is a sample, in the order of the rows. The column `file_name`, or `image_column`, names the
/// image, relative to the folder of the metadata. Files that no row names are not samples. Other columns give
/// captions, class labels and more images, see `ImageFolderOptions`. Names are not trusted: a name with "..",
/// an absolute path or a link that leads out of the folder is an error.
/// @code
/// {"file_name": "cat.png", "text": "a cat", "conditioning_image": "edges/cat.png"}
/// @endcode
/// **Without metadata.** All images are samples, sorted by name. If they are in sub-folders, the names of the
/// sub-folders, sorted, are the classes.
///
/// **With buckets.** With `enable_bucketing` each batch has images of one size; see `Dataset::buckets`.
/// Latent diffusion models need sides that are multiples of the downsampling of autoencoder and UNet
/// together, such as 64.
///
/// Hidden files and files of other types are skipped; a warning lists those of other image formats. Images
/// are read when `get_batch` requests them. Images with an EXIF orientation are rotated accordingly, as in
/// Python's `datasets`.
class ImageFolder : public Dataset {
 public:
  /// Lists the samples of a folder and reads its metadata.
  /// @param path the folder
  /// @param options see ImageFolderOptions
  /// @throws ConfigError for an option out of range, for a column without metadata, or for `bucket_step`
  /// without
  ///         bucketing; FileError if the
  ///         folder is missing, has no images, has images both directly and in sub-folders without metadata,
  ///         or has metadata that cannot be used. The message names file, line and column.
  explicit ImageFolder(const std::filesystem::path& path, const ImageFolderOptions& options = {});

  /// Returns the number of samples.
  int64_t size() const override;
  /// Returns the number of class names, or the largest numeric label plus 1; 0 without labels.
  int64_t class_count() const override;
  /// Returns the bucket of each sample, an index into `bucket_sizes()`; empty without bucketing.
  std::vector<int64_t> buckets() const override;
  /// Returns the sizes of the buckets, (height, width), sorted; empty without bucketing. Some may have no
  /// samples.
  std::vector<std::pair<int64_t, int64_t>> bucket_sizes() const;
  /// Reads samples. The image and its conditioning image, original image and mask get the same size, crop and
  /// flip. Crop, flip and the choice from a list of captions depend only on `augmentation_seed` and the
  /// position of the sample.
  /// @param indices positions, each in [0, size())
  /// @param augmentation_seed see `Dataset::get_batch`. With 0 the first caption of a list is used, as in
  ///         Python's scripts outside of training.
  /// @return a batch with (with bucketing `[H, W]` is the size of the bucket, not `[resolution, resolution]`)
  ///         - images `[B, channels, resolution, resolution]` float32 in [-1, 1]
  ///         - class_labels `[B]` int64 and captions, if there are any
  ///         - conditioning_images `[B, channels, resolution, resolution]` float32 in [0, 1]
  ///         - original_images `[B, channels, resolution, resolution]` float32 in [-1, 1]
  ///         - masks `[B, 1, resolution, resolution]` float32: 1 where the resized mask is 128 to 255, else 0
  ///         - original_sizes `[B, 2]` int64, crop_top_lefts `[B, 2]` int64 (in the resized and flipped
  ///           image)
  ///         - indices `[B]` int64
  /// @throws FileError naming a file that cannot be read, or whose aspect ratio is not that of its image
  ///         (within 2 %); TensorError if the samples are of several buckets
  Batch get_batch(std::span<const int64_t> indices, uint64_t augmentation_seed = 0) const override;

  /// Returns the class names by label; empty without names.
  const std::vector<std::string>& classes() const;
  /// Returns the path of each image.
  const std::vector<std::string>& files() const;
  /// Returns the names of the files in other image formats (WebP, BMP, GIF, TIFF, ...), which are not read.
  /// Empty with metadata.
  const std::vector<std::string>& skipped_files() const;

 private:
  ImageFolderOptions options_;
  std::shared_ptr<const ImageSamples> samples_;
};

}  // namespace diffusers

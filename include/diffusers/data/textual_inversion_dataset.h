#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <diffusers/data/dataset.h>

namespace diffusers {

/// Options of a TextualInversionDataset, with the names of the flags of diffusers' `textual_inversion.py`.
struct TextualInversionDatasetOptions {
  /// Text that stands for the concept, such as "<cat>", or "<cat> <cat>_1" for two vectors
  /// (`TextualInversionTask::placeholder`).
  std::string placeholder = "*";
  /// Kind of the concept: "object" ("a photo of a <cat>") or "style" ("a painting in the style of <cat>").
  std::string learnable_property = "object";
  /// Number of samples of each image in an epoch, at least 1.
  int64_t repeats = 100;
};

/// Returns the captions of `textual_inversion.py`, with "{}" for the placeholder.
/// @param learnable_property "object" or "style"
/// @return 27 captions for an object, 19 for a style
/// @throws ConfigError for another property
const std::vector<std::string>& textual_inversion_templates(const std::string& learnable_property);

/// Images of one concept with captions that name it, as the dataset of diffusers' `textual_inversion.py`
/// gives them. Each sample has one of the captions of `textual_inversion_templates`. The choice, and the
/// augmentation of the images, depend only on the seed of the epoch and the position of the sample.
/// @code
/// auto pictures = std::make_shared<ImageFolder>("cats", ImageFolderOptions{.resolution = 512, .random_flip =
/// true}); TextualInversionDataset data(pictures, {.placeholder = task->placeholder()});
/// @endcode
class TextualInversionDataset : public MapDataset {
 public:
  /// @param images images of the concept; captions that it has are replaced
  /// @param options see TextualInversionDatasetOptions
  /// @throws ConfigError for a dataset that is null or empty, or naming an option that is out of range
  explicit TextualInversionDataset(std::shared_ptr<const Dataset> images,
                                   TextualInversionDatasetOptions options = {});

  /// @return `repeats` times the number of images
  int64_t size() const override;
  /// @return the buckets of the images, `repeats` times
  std::vector<int64_t> buckets() const override;
  Batch get(int64_t index) const override { return get_augmented(index, 0); }
  Batch get_augmented(int64_t index, uint64_t augmentation_seed) const override;
  /// Returns the caption of a sample.
  /// @param index position of the sample
  /// @param augmentation_seed seed of the epoch
  /// @return the caption, with the placeholder
  std::string caption(int64_t index, uint64_t augmentation_seed) const;

 private:
  std::shared_ptr<const Dataset> images_;
  TextualInversionDatasetOptions options_;
};

}  // namespace diffusers

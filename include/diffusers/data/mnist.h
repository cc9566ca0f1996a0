#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <utility>

#include <diffusers/core/enum_choice.h>
#include <diffusers/data/dataset.h>

namespace diffusers {

/// Part of a dataset.
enum class Split {
  kTrain,  ///< "train": the 60,000 training images of MNIST.
  kTest    ///< "test": the 10,000 test images of MNIST.
};

/// The strings of the enumerators of Split.
template <>
struct EnumNames<Split> {
  static constexpr std::string_view kKey = "split";
  static constexpr std::array<std::pair<Split, std::string_view>, 2> kTable{
      {{Split::kTrain, "train"}, {Split::kTest, "test"}}};
};

/// Options of a `MnistDataset`.
struct MnistDatasetOptions {
  /// Part to read: `Split::kTrain` (the default) or `Split::kTest`, or "train" or "test".
  EnumChoice<Split> split = Split::kTrain;
  /// Side of the images in pixels, up to 4096. 0 keeps that of the files (28).
  int64_t resolution = 0;
  /// Pads the images with black up to `resolution`. The default resizes them.
  bool pad_to_resolution = false;
  /// Flips each image horizontally with a probability of 1/2. The draw depends only on the augmentation seed
  /// and the position.
  bool random_flip = false;
  /// Uses only the first `max_samples` samples. 0 uses all.
  int64_t max_samples = 0;
};

/// MNIST, or a dataset in the same four files (Fashion-MNIST, KMNIST, EMNIST): gray images with labels from 0
/// to 255. All images are kept in memory.
class MnistDataset : public Dataset {
 public:
  /// Reads the two files of a split.
  /// @param folder holds `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and
  ///         `t10k-labels-idx1-ubyte`, each with or without `.gz`. Only the two files of the split are read.
  /// @param options see MnistDatasetOptions
  /// @throws FileError naming the file that is missing or invalid; ConfigError for an option out of range
  explicit MnistDataset(const std::filesystem::path& folder, const MnistDatasetOptions& options = {});

  /// Returns the number of samples.
  int64_t size() const override { return images_.size(0); }
  /// Reads samples, in the order of `indices`.
  /// @param indices positions, each in [0, size())
  /// @param augmentation_seed see `Dataset::get_batch`; has an effect with `random_flip`
  /// @return images `[B, 1, resolution, resolution]` float32 in [-1, 1] (black is -1), class_labels `[B]`
  ///         int64, indices `[B]` int64
  /// @throws TensorError if an index is out of range
  Batch get_batch(std::span<const int64_t> indices, uint64_t augmentation_seed = 0) const override;

  /// Returns the side of the images in pixels.
  int64_t resolution() const { return images_.size(2); }
  /// Returns the largest label of the split plus 1, at least 10: 10 for MNIST, 47 for EMNIST's balanced set.
  int64_t num_classes() const { return num_classes_; }
  /// Returns num_classes().
  int64_t class_count() const override { return num_classes(); }
  /// Returns all images, uint8 `[N, 1, resolution, resolution]`.
  const Tensor& images() const { return images_; }
  /// Returns all labels, int64 `[N]`.
  const Tensor& labels() const { return labels_; }

 private:
  Tensor images_;
  Tensor labels_;
  int64_t num_classes_ = 10;
  bool random_flip_ = false;
};

}  // namespace diffusers

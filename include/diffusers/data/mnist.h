#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/enum_names.h>
#include <diffusers/data/dataset.h>

namespace diffusers {

enum class Split { kTrain, kTest };

template <>
struct EnumNames<Split> {
  static constexpr std::string_view kKey = "split";
  static constexpr std::array<std::pair<Split, std::string_view>, 2> kTable{
      {{Split::kTrain, "train"}, {Split::kTest, "test"}}};
};

struct MnistDatasetOptions {
  EnumChoice<Split> split = Split::kTrain;
  int64_t resolution = 0;          ///< 0 keeps the files' own (28)
  bool pad_to_resolution = false;  ///< reach a larger resolution by a black border instead of resizing
  bool random_flip = false;  ///< mirror every other image, drawn from the augmentation seed and the index
  int64_t max_samples = 0;   ///< keep the first so many; 0 keeps all
};

/// MNIST, or whatever comes in its four files (Fashion-MNIST, KMNIST, EMNIST): gray images with a label from
/// 0 to 255.
class MnistDataset : public Dataset {
 public:
  /// @param folder holds `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and
  ///        `t10k-labels-idx1-ubyte`, each with or without `.gz`; only the split's two files are read
  /// @throws FileError naming the file that is missing or wrong, ConfigError for an option that cannot work
  explicit MnistDataset(const std::string& folder, const MnistDatasetOptions& options = {});

  int64_t size() const override { return images_.size(0); }
  /// images `[B, 1, resolution, resolution]` float32 in [-1, 1] (black is -1), class_labels `[B]` int64
  Batch get_batch(std::span<const int64_t> indices, uint64_t augmentation_seed = 0) const override;

  int64_t resolution() const { return images_.size(2); }
  /// The largest label of the split and 1, at least 10: 10 for MNIST, 47 for EMNIST's balanced set.
  int64_t num_classes() const { return num_classes_; }
  int64_t class_count() const override { return num_classes(); }
  /// All images, uint8 `[N, 1, resolution, resolution]`.
  const Tensor& images() const { return images_; }
  /// All labels, int64 `[N]`.
  const Tensor& labels() const { return labels_; }

 private:
  Tensor images_;
  Tensor labels_;
  int64_t num_classes_ = 10;
  bool random_flip_ = false;
};

}  // namespace diffusers

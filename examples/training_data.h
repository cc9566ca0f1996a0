#pragma once

// The data of a training program: a folder of images, shards, or a dataset of IDX files. Flags, checks and
// opening.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/data/dataset.h>
#include <diffusers/data/image_folder.h>
#include <diffusers/data/mnist.h>
#include <diffusers/data/tar_dataset.h>
#include <diffusers/training/trainer.h>
#include <diffusers/training/training_config.h>

#include "flags.h"

/// Values of the flags of shards and of aspect-ratio buckets.
struct ShardSettings {
  std::string train_shards = {};  ///< pattern of the shards; empty: none
  int64_t shuffle_buffer_size = 1000;
  int64_t num_train_samples = 0;  ///< samples of an epoch; 0: one pass over the shards
  bool enable_bucketing = false;  ///< of a folder of images
  int64_t bucket_step = 64;

  bool is_given() const { return !train_shards.empty(); }
};

/// Values of the flags of the data.
struct DataSettings {
  std::string train_data_dir = {};  ///< folder of images; its sub-folders are the classes
  std::string dataset = {};         ///< mnist or fashion-mnist: four IDX files; instead of `train_data_dir`
  std::string data_dir = {};        ///< folder of the IDX files; empty means the default of `folder()`
  bool center_crop = false;
  bool random_flip = false;
  int64_t num_classes = 0;  ///< classes of the shards; 0: their labels are not used
  ShardSettings shards = {};

  bool is_idx() const { return !dataset.empty(); }
  /// Returns the folder that the data is read from.
  std::string folder() const;
  /// Returns the flag that names the data, and its value, for error messages: "--dataset mnist".
  std::string flag() const;
};

/// Adds the flags of the data.
/// @param settings holds the defaults; must outlive the parsing
void add_data_flags(CLI::App& app, DataSettings& settings);

/// Returns the flags of shards and buckets, for programs with flags of their own for a folder of images.
const FlagTable<ShardSettings>& shard_flags();

/// Checks that flags of shards and buckets are not without effect.
/// @param folder_flags flags of the program that need a folder of images
/// @throws diffusers::ConfigError naming the flag
void check_shard_flags(const CLI::App& app, const ShardSettings& settings,
                       const std::vector<std::string>& folder_flags = {});

/// Checks that the flags name one source of data, and that no flag is without effect. `--train_data_dir` and
/// `--train_shards` replace the default dataset of a program.
/// @param folder_flags flags of the program that need a folder of images, besides `--center_crop`
/// @throws diffusers::ConfigError naming the flag
void check_data_flags(const CLI::App& app, DataSettings& settings,
                      const std::vector<std::string>& folder_flags = {});

/// The images of a training: a dataset with random access, or shards, which are read in order.
class TrainImages {
 public:
  TrainImages() = default;
  explicit TrainImages(std::unique_ptr<diffusers::Dataset> dataset) : dataset_(std::move(dataset)) {}
  /// @param in_order the same shards without shuffling, for `first`
  TrainImages(std::unique_ptr<diffusers::TarDataset> shards, std::unique_ptr<diffusers::TarDataset> in_order)
      : shards_(std::move(shards)), in_order_(std::move(in_order)) {}

  /// Returns the dataset.
  /// @throws diffusers::ConfigError for shards
  const diffusers::Dataset& dataset() const;
  /// Returns the number of samples of an epoch; nullopt if it is not known.
  std::optional<int64_t> size() const;
  /// Describes the size, for messages: "120 images" or "100 shards".
  std::string description() const;
  /// Returns the number of classes; 0 without labels.
  int64_t class_count() const;
  /// Reads the first samples; with buckets the first ones of a bucket. They are the same at each call.
  /// @param count number of samples; fewer if there are not as many
  diffusers::Batch first(int64_t count) const;
  /// Trains on the images.
  /// @param held_out data of the validation; null: none
  diffusers::TrainingResult train(diffusers::Trainer& trainer,
                                  const diffusers::Dataset* held_out = nullptr) const;

 private:
  std::unique_ptr<diffusers::Dataset> dataset_;  // one of the two is set
  std::unique_ptr<diffusers::TarDataset> shards_;
  std::unique_ptr<diffusers::TarDataset> in_order_;
};

/// Opens the training images of a folder or of shards.
/// @param folder used if no shards are given
/// @param options of the folder; those that a TarDataset has are used for shards too
/// @param num_classes classes of the shards
/// @throws diffusers::FileError if the data cannot be read; diffusers::ConfigError for an invalid option
TrainImages open_train_images(const ShardSettings& settings, const std::string& folder,
                              diffusers::ImageFolderOptions options, int64_t num_classes = 0);

/// Opens the training images, or the test images of a dataset of IDX files.
/// @param options resolution, and for a folder of images its channels and columns; the flags set the rest
/// @throws diffusers::FileError if the data cannot be read; diffusers::ConfigError for an invalid option
std::unique_ptr<diffusers::Dataset> open_images(const DataSettings& settings,
                                                diffusers::ImageFolderOptions options,
                                                diffusers::Split split = diffusers::Split::kTrain);

/// The images of a training and of its validation.
struct TrainingData {
  TrainImages train;
  std::unique_ptr<diffusers::Dataset> held_out;  ///< the test images; null for other images than IDX files
  int64_t channels = 0;                          ///< channels of the images
  int64_t num_classes = 0;                       ///< 0: the images have no labels
};

/// Opens the training images and the test images.
/// @param resolution side of the images in pixels
/// @param channels `in_channels` of the model: an image file is read as gray with 1 and as RGB with 3
/// @throws diffusers::ConfigError if image files have no such channels; diffusers::FileError if the data
///   cannot be read
TrainingData open_training_data(const DataSettings& settings, int64_t resolution, int64_t channels);

/// Opens the training images.
/// @param options as for `open_images`
TrainImages open_train_images(const DataSettings& settings, const diffusers::ImageFolderOptions& options);

/// Returns the config for the Trainer: images in buckets do not have the size `resolution`, so it is not
/// checked.
diffusers::TrainingConfig trainer_config(const diffusers::TrainingConfig& config,
                                         const ShardSettings& settings);

/// Returns the number of optimizer steps of an epoch.
/// @param samples number of samples of an epoch
int64_t steps_per_epoch(int64_t samples, const diffusers::TrainingConfig& config);
/// Returns the number of optimizer steps of an epoch.
/// @param what flag that counts in epochs, for the message
/// @throws diffusers::ConfigError if the number of samples is not known
int64_t steps_per_epoch(const TrainImages& data, const diffusers::TrainingConfig& config,
                        const std::string& what);

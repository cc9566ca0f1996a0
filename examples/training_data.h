#pragma once

// The data of a training program: a folder of images, or a dataset of IDX files. Flags, checks and opening.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <diffusers/data/dataset.h>
#include <diffusers/data/image_folder.h>
#include <diffusers/data/mnist.h>
#include <diffusers/training/training_config.h>

#include "flags.h"

/// Values of the flags of the data.
struct DataSettings {
  std::string train_data_dir = {};  ///< folder of images; its sub-folders are the classes
  std::string dataset = {};         ///< mnist or fashion-mnist: four IDX files; instead of `train_data_dir`
  std::string data_dir = {};        ///< folder of the IDX files; empty means the default of `folder()`
  bool center_crop = false;
  bool random_flip = false;

  bool is_idx() const { return !dataset.empty(); }
  /// Returns the folder that the data is read from.
  std::string folder() const;
  /// Returns the flag that names the data, and its value, for error messages: "--dataset mnist".
  std::string flag() const;
};

/// Returns the flags of the data.
const FlagTable<DataSettings>& data_flags();

/// Checks that the flags name one source of data, and that no flag is without effect. `--train_data_dir`
/// replaces the default dataset of a program.
/// @param folder_flags flags of the program that need a folder of images, besides `--center_crop`
/// @throws diffusers::ConfigError naming the flag
void check_data_flags(const CLI::App& app, DataSettings& settings,
                      const std::vector<std::string>& folder_flags = {});

/// Opens the training images, or the test images of a dataset of IDX files.
/// @param options resolution, and for a folder of images its channels and columns; the flags set the rest
/// @throws diffusers::FileError if the data cannot be read; diffusers::ConfigError for an invalid option
std::unique_ptr<diffusers::Dataset> open_images(const DataSettings& settings,
                                                diffusers::ImageFolderOptions options,
                                                diffusers::Split split = diffusers::Split::kTrain);

/// The images of a training and of its validation.
struct TrainingData {
  std::unique_ptr<diffusers::Dataset> train;
  std::unique_ptr<diffusers::Dataset> held_out;  ///< the test images; null for a folder of images
  int64_t channels = 0;                          ///< channels of the images
  int64_t num_classes = 0;                       ///< 0: the images have no labels
};

/// Opens the training images and the test images.
/// @param resolution side of the images in pixels
/// @param channels `in_channels` of the model: an image file is read as gray with 1 and as RGB with 3
/// @throws diffusers::ConfigError if image files have no such channels; diffusers::FileError if the data
///   cannot be read
TrainingData open_training_data(const DataSettings& settings, int64_t resolution, int64_t channels);

/// Returns the number of optimizer steps of an epoch.
int64_t steps_per_epoch(const diffusers::Dataset& data, const diffusers::TrainingConfig& config);

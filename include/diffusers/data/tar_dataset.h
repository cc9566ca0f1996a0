#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/core/enum_choice.h>
#include <diffusers/data/image_folder.h>
#include <diffusers/data/iterable_dataset.h>

namespace diffusers {

/// Options of a `TarDataset`. They have the names of the flags of diffusers' training scripts.
struct TarDatasetOptions {
  /// Side of the images in pixels, 1 to 16384. The shorter side is resized to it, then a square is cropped.
  int64_t resolution = 64;
  /// Crops the square at the center. The default crops at a random position.
  bool center_crop = false;
  /// Flips each image horizontally with a probability of 1/2.
  bool random_flip = false;
  /// Column of `KEY.json` that holds the caption: a string or a list of strings. Empty: the text of
  /// `KEY.txt`, else the column "caption" or "text", if the first sample has one of them.
  std::string caption_column = {};
  /// Column of `KEY.json` that holds the class label, a whole number from 0. Empty: the number in `KEY.cls`,
  /// else the column "cls" or "label", if the first sample has one of them.
  std::string label_column = {};
  /// Number of classes. A label that is not below it is an error. 0: not known.
  int64_t num_classes = 0;
  /// Channels of the images: 3 for RGB, 1 for gray.
  int64_t channels = 3;
  /// Filter with which images are resized.
  EnumChoice<ImageInterpolation> image_interpolation_mode = ImageInterpolation::kBilinear;
  /// Number of samples in the shuffle buffer. Each sample that is returned is drawn from it. The buffer keeps
  /// the images as they are in the shards, not decoded. 0 keeps the order of the shard.
  int64_t shuffle_buffer_size = 1000;
  /// Reads the shards in another order in each pass. False keeps their order.
  bool shuffle_shards = true;
  /// Number of samples of an epoch, of all processes together (WebDataset: `with_epoch`). If the shards have
  /// fewer samples, a new pass begins within the epoch, after the last sample of the pass before; if they
  /// have more, the epoch ends within a pass. 0: an epoch is one pass over all shards, whose number of
  /// samples is not known. Several processes need a number, since they must return equal numbers of batches.
  int64_t num_samples = 0;
};

/// A dataset of images in tar archives, the shards of WebDataset. The members of a sample have one key, the
/// path up to the first dot of the file name, and follow each other: | member                           |
/// content                                              |
/// |----------------------------------|------------------------------------------------------|
/// | `KEY.jpg`, `KEY.jpeg`, `KEY.png` | the image; each sample has one                       |
/// | `KEY.txt`                        | the caption, UTF-8                                   |
/// | `KEY.cls`                        | the class label, a whole number from 0               |
/// | `KEY.json`                       | an object with columns for the caption and the label |
///
/// The first sample of the first shard decides which fields all samples must have. Members of other kinds are
/// passed over. A WebP image is an error.
/// @code
/// TarDataset data("shards/data-{000000..000099}.tar", {.resolution = 512, .random_flip = true});
/// trainer.train(data);
/// @endcode
/// **Order.** In each pass the shards are shuffled and dealt out to the processes and to the threads of their
/// loaders. Each thread reads its shards one after another, into its shuffle buffer. The order
/// therefore depends on the number of processes and of threads. For the same numbers it depends on the seed
/// and the epoch alone, and a loader continues exactly from every saved position. Resuming reads the headers
/// of the shards before the position, and the samples that were in the shuffle buffer.
///
/// **Memory.** A thread keeps its shuffle buffer and the sample that it reads; no list of samples is kept.
///
/// **Safety.** Shards are not trusted. A truncated or damaged shard, a link, a device, a sparse file, a name
/// that is absolute or contains "..", an image of more than 1 GiB or a text of more than 1 MiB is an error
/// that names the shard and the member. Sizes in headers allocate no memory.
class TarDataset : public IterableDataset {
 public:
  /// Expands the pattern and reads the first sample.
  /// @param shards pattern of the paths of the shards, plain or gzip-compressed tar archives, as WebDataset
  /// expands
  ///        it: "data-{000000..000099}.tar", "{train,val}.tar.gz", "a.tar::b.tar"
  /// @param options see TarDatasetOptions
  /// @throws ConfigError for an option out of range, an invalid pattern or an address such as "https://...";
  /// FileError
  ///         naming a shard that does not exist, or whose first sample cannot be read
  explicit TarDataset(const std::string& shards, const TarDatasetOptions& options = {});

  /// Starts a pass of one reader over all shards.
  /// @param epoch_seed see IterableDataset::open
  /// @return samples with
  ///         - images `[1, channels, resolution, resolution]` float32 in [-1, 1]
  ///         - class_labels `[1]` int64 and one caption, if there are any
  ///         - original_sizes `[1, 2]` int64, crop_top_lefts `[1, 2]` int64
  ///
  ///         Its functions throw FileError naming shard and member.
  std::unique_ptr<SampleStream> open(uint64_t epoch_seed) const override;
  /// Starts the pass of one of several readers.
  /// @param epoch_seed see IterableDataset::open
  /// @param part see StreamPart
  /// @return as `open`
  /// @throws ConfigError if there are fewer shards than readers
  std::unique_ptr<SampleStream> open_part(uint64_t epoch_seed, const StreamPart& part) const override;
  /// Returns the number of shards.
  int64_t max_parts() const override;
  /// Returns `num_samples`; nullopt if it is 0.
  std::optional<int64_t> size() const override;
  /// Returns `num_classes`.
  int64_t class_count() const override;
  /// Returns the number of shards and the options that determine the order.
  std::string order_key() const override;

  /// Returns the paths of the shards.
  const std::vector<std::string>& shards() const;
  /// Returns true if the samples have captions.
  bool has_captions() const;
  /// Returns true if the samples have class labels.
  bool has_labels() const;

 private:
  struct Contents;
  std::shared_ptr<const Contents> contents_;
};

}  // namespace diffusers

#include <algorithm>
#include <utility>

#include <diffusers/data/tar_dataset.h>
#include <diffusers/io/files.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "data/image_crop.h"
#include "data/shard_pattern.h"
#include "data/tar_stream.h"
#include "io/image_tensor.h"
#include "io/posix_file.h"

namespace diffusers {
namespace {

/// Samples of a shard are counted below this number, so that each sample of a dataset has a number of its
/// own.
constexpr int64_t kSamplesOfShard = int64_t{1} << 40;

void check_tar_options(const TarDatasetOptions& options) {
  require<ConfigError>(options.resolution >= 1 && options.resolution <= 16384,
                       "resolution is {}, expected 1 to 16384", options.resolution);
  require<ConfigError>(options.channels == 1 || options.channels == 3, "channels is {}, expected 1 or 3",
                       options.channels);
  require<ConfigError>(options.num_classes >= 0, "num_classes is {}, expected 0 (not known) or more",
                       options.num_classes);
  require<ConfigError>(options.shuffle_buffer_size >= 0,
                       "shuffle_buffer_size is {}, expected 0 (no shuffling) or more",
                       options.shuffle_buffer_size);
  require<ConfigError>(options.num_samples >= 0,
                       "num_samples is {}, expected 0 (one pass over the shards) or more",
                       options.num_samples);
}

std::vector<std::string> existing_shards(const std::string& pattern) {
  std::vector<std::string> shards = expand_shards(pattern);
  for (const std::string& shard : shards) {
    require<ConfigError>(
        shard.find("://") == std::string::npos && !shard.starts_with("pipe:"),
        "the shard {} is an address, expected the path of a local file; download the shards first",
        escaped(shard));
    require<FileError>(
        !folder_exists(shard),
        "{}: expected a shard, found a folder; a pattern such as {}/{{00000..00099}}.tar names its "
        "shards",
        shard, shard);
    require<FileError>(file_exists(shard), "{}: there is no such shard; it is one of {} that {} stands for",
                       shard, shards.size(), escaped(pattern));
  }
  return shards;
}

}  // namespace

struct TarDataset::Contents {
  TarDatasetOptions options;
  ShardPlan plan;
};

namespace {

/// Decodes the samples of a reader.
class TarStream : public SampleStream {
 public:
  /// @param owner keeps plan and options
  TarStream(std::shared_ptr<const void> owner, const TarDatasetOptions& options, const ShardPlan& plan,
            uint64_t epoch_seed, const StreamPart& part)
      : owner_(std::move(owner)),
        options_(options),
        plan_(plan),
        epoch_seed_(epoch_seed),
        is_limited_(options.num_samples > 0),
        left_(part.share_of(options.num_samples)),
        shuffled_(plan, epoch_seed, part, is_limited_) {}

  std::optional<Batch> next() override {
    if (is_limited_ && left_ == 0) return std::nullopt;
    const std::optional<PlacedSample> sample = shuffled_.next();
    if (!sample) return std::nullopt;
    --left_;
    return decode(*sample);
  }

  int64_t skip(int64_t count) override {
    const int64_t passed = shuffled_.skip(is_limited_ ? std::min(count, left_) : count);
    left_ -= passed;
    return passed;
  }

 private:
  Batch decode(const PlacedSample& placed) const {
    const EncodedSample& sample = placed.sample;
    const std::string where =
        fmt::format("{}: member {}", plan_.shards[static_cast<std::size_t>(placed.place.shard)],
                    escaped(sample.image_name));
    const uint64_t seed = seed_of_pass(epoch_seed_, placed.place.pass);
    const int64_t index = placed.place.shard * kSamplesOfShard + placed.place.number;
    const Tensor image =
        image_from_bytes(sample.image, where, {.channels = options_.channels, .exif_transpose = true});
    std::vector<Crop> crops(1);
    Batch batch;
    batch.images = to_signed_unit(crop_image(image.unsqueeze(0),
                                             {.height = options_.resolution,
                                              .width = options_.resolution,
                                              .center_crop = options_.center_crop,
                                              .random_flip = options_.random_flip,
                                              .mode = options_.image_interpolation_mode},
                                             ExampleRandom(seed, index), where, crops.front())
                                      .contiguous());
    batch.original_sizes =
        pairs_of(crops, [](const Crop& crop) { return std::pair(crop.height, crop.width); });
    batch.crop_top_lefts = pairs_of(crops, top_left_of);
    if (!sample.captions.empty()) batch.captions = {chosen_caption(sample.captions, index, seed)};
    if (sample.label) {
      require<FileError>(options_.num_classes == 0 || *sample.label < options_.num_classes,
                         "{}: the class label of sample {} is {}, expected 0 to {}, below num_classes",
                         plan_.shards[static_cast<std::size_t>(placed.place.shard)], escaped(sample.key),
                         *sample.label, options_.num_classes - 1);
      batch.class_labels = at::full({1}, *sample.label, at::kLong);
    }
    return batch;
  }

  std::shared_ptr<const void> owner_;
  const TarDatasetOptions& options_;
  const ShardPlan& plan_;
  uint64_t epoch_seed_;
  bool is_limited_;
  int64_t left_;  // samples of this reader that are left in the epoch, if it is limited
  ShuffledShards shuffled_;
};

}  // namespace

TarDataset::TarDataset(const std::string& shards, const TarDatasetOptions& options) {
  check_tar_options(options);
  Contents contents{.options = options,
                    .plan = {.shards = existing_shards(shards),
                             .shuffle_shards = options.shuffle_shards,
                             .shuffle_buffer_size = options.shuffle_buffer_size}};
  const std::string& first = contents.plan.shards.front();
  contents.plan.fields = find_tar_fields(TarReader(first), options.caption_column, options.label_column);
  // Checks that the fields that were found or asked for can be read.
  TarSamples(TarReader(first), contents.plan.fields).next();
  contents_ = std::make_shared<const Contents>(std::move(contents));
}

std::unique_ptr<SampleStream> TarDataset::open(uint64_t epoch_seed) const {
  return open_part(epoch_seed, {});
}

std::unique_ptr<SampleStream> TarDataset::open_part(uint64_t epoch_seed, const StreamPart& part) const {
  const int64_t readers = part.world_size * part.num_workers;
  require<ConfigError>(
      readers <= max_parts(),
      "{} processes with {} threads read the shards, of which there are {}; expected at least one "
      "shard for each thread",
      part.world_size, part.num_workers, max_parts());
  return std::make_unique<TarStream>(contents_, contents_->options, contents_->plan, epoch_seed, part);
}

int64_t TarDataset::max_parts() const { return static_cast<int64_t>(contents_->plan.shards.size()); }
std::optional<int64_t> TarDataset::size() const {
  const int64_t samples = contents_->options.num_samples;
  return samples > 0 ? std::optional(samples) : std::nullopt;
}
int64_t TarDataset::class_count() const { return contents_->options.num_classes; }
std::string TarDataset::order_key() const {
  const ShardPlan& plan = contents_->plan;
  return fmt::format("{} shards, shuffle_buffer_size {}, shuffle_shards {}, num_samples {}",
                     plan.shards.size(), plan.shuffle_buffer_size, plan.shuffle_shards,
                     contents_->options.num_samples);
}
const std::vector<std::string>& TarDataset::shards() const { return contents_->plan.shards; }
bool TarDataset::has_captions() const { return !contents_->plan.fields.caption.is_absent(); }
bool TarDataset::has_labels() const { return !contents_->plan.fields.label.is_absent(); }

}  // namespace diffusers

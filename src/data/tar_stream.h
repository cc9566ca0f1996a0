#pragma once

// The stream of one reader of a TarDataset: shards in a seeded order, and a shuffle buffer.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/data/iterable_dataset.h>

#include "data/tar_samples.h"
#include "data/transforms.h"

namespace diffusers {
inline namespace internal {

/// The shards of a dataset and how they are read.
struct ShardPlan {
  std::vector<std::string> shards;
  TarFields fields = {};
  bool shuffle_shards = true;
  int64_t shuffle_buffer_size = 0;
};

/// Place of a sample.
struct SamplePlace {
  int64_t pass = 0;    ///< number of the pass over the shards within the epoch
  int64_t shard = 0;   ///< number of the shard in the dataset
  int64_t number = 0;  ///< number of the sample in the shard
};

/// A sample and its place.
struct PlacedSample {
  SamplePlace place;
  bool has_data = false;  ///< false: only the place is known
  EncodedSample sample;
};

/// Reads the shards of one reader in the order of the passes. Samples can be passed over without reading
/// their data, and read later by their places.
class ShardSequence {
 public:
  /// @param plan must outlive the sequence
  ShardSequence(const ShardPlan& plan, uint64_t seed, const StreamPart& part);

  /// Reads the next sample, or only its place.
  /// @return nullopt at the end of the pass
  std::optional<PlacedSample> next(bool with_data);
  /// Begins the next pass. The shards have another order then.
  void begin_pass();
  /// Reads the data of samples whose places are known.
  void load(std::vector<PlacedSample*> samples) const;

 private:
  bool open_next_shard();

  const ShardPlan& plan_;
  uint64_t seed_;
  StreamPart part_;
  SamplePlace place_;           // of the next sample of the open shard
  std::vector<int64_t> order_;  // shards of this reader in the pass
  std::size_t next_shard_ = 0;  // in order_
  std::optional<TarSamples> open_;
};

/// Draws samples from a buffer that a sequence fills. The buffer is emptied at the end of a pass.
class ShuffledShards {
 public:
  /// @param is_repeated begins a new pass at the end of a pass
  ShuffledShards(const ShardPlan& plan, uint64_t seed, const StreamPart& part, bool is_repeated);

  /// Draws the next sample.
  /// @return nullopt at the end of the data
  std::optional<PlacedSample> next();
  /// Passes over samples, with the draws of `next`.
  /// @return the number of samples passed over
  int64_t skip(int64_t count);

 private:
  std::optional<PlacedSample> draw(bool with_data);

  std::size_t capacity_;
  ShardSequence sequence_;
  ExampleRandom random_;
  std::vector<PlacedSample> buffer_;
  bool is_repeated_;
  bool is_at_end_ = false;  // of the pass
};

/// Returns the seed of a pass within an epoch.
uint64_t seed_of_pass(uint64_t epoch_seed, int64_t pass);

}  // namespace internal
}  // namespace diffusers

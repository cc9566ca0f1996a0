#include "data/tar_stream.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <tuple>
#include <utility>

#include "core/require.h"

namespace diffusers {
inline namespace internal {
namespace {

/// Numbers that derive independent random streams from the seed of a pass.
enum : uint64_t { kShardStream = 3, kBufferStream = 4 };

/// Returns the shards of a reader: every process and thread takes each n-th shard of the shuffled list.
std::vector<int64_t> shards_of_part(const ShardPlan& plan, uint64_t pass_seed, const StreamPart& part) {
  std::vector<int64_t> all(plan.shards.size());
  std::iota(all.begin(), all.end(), int64_t{0});
  if (plan.shuffle_shards) {
    ExampleRandom random(pass_seed ^ kShardStream, 0);
    for (std::size_t i = all.size(); i > 1; --i)
      std::swap(all[i - 1], all[static_cast<std::size_t>(random.below(static_cast<int64_t>(i)))]);
  }
  std::vector<int64_t> mine;
  const auto step = static_cast<std::size_t>(part.world_size * part.num_workers);
  for (auto i = static_cast<std::size_t>(part.worker * part.world_size + part.rank); i < all.size();
       i += step)
    mine.push_back(all[i]);
  return mine;
}

}  // namespace

uint64_t seed_of_pass(uint64_t epoch_seed, int64_t pass) {
  return pass == 0 ? epoch_seed
                   : ExampleRandom::mix(epoch_seed ^ ExampleRandom::mix(static_cast<uint64_t>(pass)));
}

ShardSequence::ShardSequence(const ShardPlan& plan, uint64_t seed, const StreamPart& part)
    : plan_(plan), seed_(seed), part_(part), order_(shards_of_part(plan, seed, part)) {}

void ShardSequence::begin_pass() {
  ++place_.pass;
  order_ = shards_of_part(plan_, seed_of_pass(seed_, place_.pass), part_);
  next_shard_ = 0;
}

bool ShardSequence::open_next_shard() {
  if (next_shard_ == order_.size()) return false;
  place_.shard = order_[next_shard_++];
  place_.number = 0;
  open_.emplace(TarReader(plan_.shards[static_cast<std::size_t>(place_.shard)]), plan_.fields);
  return true;
}

std::optional<PlacedSample> ShardSequence::next(bool with_data) {
  while (open_ || open_next_shard()) {
    PlacedSample found{.place = place_, .has_data = with_data, .sample = {}};
    bool has_sample = false;
    if (with_data) {
      std::optional<EncodedSample> sample = open_->next();
      has_sample = sample.has_value();
      if (sample) found.sample = std::move(*sample);
    } else {
      has_sample = open_->skip();
    }
    if (has_sample) {
      ++place_.number;
      return found;
    }
    require<FileError>(place_.number > 0,
                       "{}: the shard has no samples, expected members such as KEY.jpg and KEY.txt",
                       plan_.shards[static_cast<std::size_t>(place_.shard)]);
    open_.reset();
  }
  return std::nullopt;
}

void ShardSequence::load(std::vector<PlacedSample*> samples) const {
  std::sort(samples.begin(), samples.end(), [](const PlacedSample* a, const PlacedSample* b) {
    return std::tuple(a->place.shard, a->place.number) < std::tuple(b->place.shard, b->place.number);
  });
  std::optional<TarSamples> open;
  SamplePlace at;
  for (PlacedSample* wanted : samples) {
    const std::string& path = plan_.shards[static_cast<std::size_t>(wanted->place.shard)];
    // The same sample may be wanted twice, of two passes.
    if (!open || at.shard != wanted->place.shard || at.number > wanted->place.number) {
      open.emplace(TarReader(path), plan_.fields);
      at = {.shard = wanted->place.shard};
    }
    bool is_there = true;
    for (; is_there && at.number < wanted->place.number; ++at.number) is_there = open->skip();
    std::optional<EncodedSample> sample = is_there ? open->next() : std::nullopt;
    require<FileError>(sample.has_value(), "{}: sample {} is missing, the shard has changed", path,
                       wanted->place.number);
    ++at.number;
    wanted->sample = std::move(*sample);
    wanted->has_data = true;
  }
}

ShuffledShards::ShuffledShards(const ShardPlan& plan, uint64_t seed, const StreamPart& part, bool is_repeated)
    : capacity_(static_cast<std::size_t>(std::max<int64_t>(plan.shuffle_buffer_size, 1))),
      sequence_(plan, seed, part),
      random_(seed ^ kBufferStream, part.worker * part.world_size + part.rank),
      is_repeated_(is_repeated) {}

std::optional<PlacedSample> ShuffledShards::draw(bool with_data) {
  while (buffer_.size() < capacity_) {
    if (is_at_end_ && (!is_repeated_ || !buffer_.empty())) break;
    if (is_at_end_) sequence_.begin_pass();
    std::optional<PlacedSample> sample = sequence_.next(with_data);
    is_at_end_ = !sample;
    if (sample) buffer_.push_back(std::move(*sample));
  }
  if (buffer_.empty()) return std::nullopt;
  const auto slot = static_cast<std::size_t>(random_.below(static_cast<int64_t>(buffer_.size())));
  std::swap(buffer_[slot], buffer_.back());
  PlacedSample drawn = std::move(buffer_.back());
  buffer_.pop_back();
  return drawn;
}

std::optional<PlacedSample> ShuffledShards::next() { return draw(/*with_data=*/true); }

int64_t ShuffledShards::skip(int64_t count) {
  // The shards of the buffer are read again, which does not pay for a few samples.
  const bool with_data = count <= static_cast<int64_t>(capacity_);
  int64_t passed = 0;
  while (passed < count && draw(with_data)) ++passed;
  std::vector<PlacedSample*> missing;
  for (PlacedSample& sample : buffer_)
    if (!sample.has_data) missing.push_back(&sample);
  sequence_.load(std::move(missing));
  return passed;
}

}  // namespace internal
}  // namespace diffusers

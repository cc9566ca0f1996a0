#include <algorithm>
#include <condition_variable>
#include <exception>
#include <limits>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include <diffusers/core/logging.h>
#include <diffusers/data/loader.h>

#include <ATen/Context.h>

#include "core/parallel.h"
#include "core/require.h"
#include "data/batch_source.h"
#include "data/epoch_plan.h"
#include "data/transforms.h"

namespace diffusers {
namespace {

/// Numbers that derive independent random streams from one seed.
enum : uint64_t { kOrderStream = 1, kAugmentationStream = 2 };

uint64_t epoch_seed(uint64_t seed, int64_t epoch, uint64_t stream) {
  return ExampleRandom::mix(ExampleRandom::mix(ExampleRandom::mix(seed) ^ static_cast<uint64_t>(epoch)) ^
                            stream);
}

/// Number of batches of an epoch of unknown length.
constexpr int64_t kUnknownBatches = std::numeric_limits<int64_t>::max();

void check_loader_options(DataLoaderOptions& options) {
  require<ConfigError>(options.batch_size >= 1 && options.batch_size <= (int64_t{1} << 31),
                       "batch_size is {}, expected 1 to 2^31", options.batch_size);
  require<ConfigError>(options.num_workers >= 0 && options.num_workers <= 1024,
                       "num_workers is {}, expected 0 to 1024", options.num_workers);
  require<ConfigError>(options.prefetch >= 1 && options.prefetch <= 1024,
                       "prefetch is {}, expected 1 to 1024", options.prefetch);
  require<ConfigError>(options.world_size >= 1 && options.world_size <= (int64_t{1} << 20),
                       "world_size is {}, expected 1 to 2^20", options.world_size);
  require<ConfigError>(options.rank >= 0 && options.rank < options.world_size,
                       "rank is {}, expected 0 to {} (world_size is {})", options.rank,
                       options.world_size - 1, options.world_size);
  if (options.pin_memory && !at::hasCUDA()) {
    warn_once("pin_memory has no effect: there is no CUDA device");
    options.pin_memory = false;
  }
}

}  // namespace

/// Result of a read by a thread: a batch, an error, or neither at the end of the epoch.
struct LoaderResult {
  std::optional<LoadedBatch> loaded;
  std::exception_ptr error;
};

struct DataLoader::State {
  State(std::shared_ptr<const Dataset> data, const DataLoaderOptions& given)
      : dataset(std::move(data)), options(given) {
    require<ConfigError>(dataset != nullptr, "the loader got no dataset");
    check_loader_options(options);
    samples.size = dataset->size();
    require<ConfigError>(samples.size > 0, "the dataset is empty");
    buckets = dataset->buckets();
    require<ConfigError>(
        buckets.empty() || static_cast<int64_t>(buckets.size()) == samples.size,
        "the dataset has {} samples, but buckets() gives {} numbers; expected one for each sample",
        samples.size, buckets.size());
    samples.buckets = buckets;
    samples.batch_size = global_size();
    samples.drop_last = options.drop_last;
    batches = planned_batches(samples);
    require<ConfigError>(batches > 0,
                         "batch_size is {} and drop_last is true, but the dataset has only {} samples",
                         global_size(), samples.size);
  }
  State(std::shared_ptr<const IterableDataset> data, const DataLoaderOptions& given)
      : stream(std::move(data)), options(given), batches(kUnknownBatches) {
    require<ConfigError>(stream != nullptr, "the loader got no dataset");
    check_loader_options(options);
    require<ConfigError>(
        !options.shuffle,
        "shuffle is true, but an IterableDataset gives its samples in its own order; expected false");
    is_parted = stream->max_parts() > 1;
    require<ConfigError>(is_parted || options.num_workers <= 1,
                         "num_workers is {}, but an IterableDataset is read by one thread; expected 0 or 1",
                         options.num_workers);
    require<ConfigError>(
        !is_parted || reading_threads(options) * options.world_size <= stream->max_parts(),
        "num_workers is {} and world_size is {}, but at most {} threads of all processes together "
        "can read the IterableDataset, since it has as many parts, such as shards",
        options.num_workers, options.world_size, stream->max_parts());
    require<ConfigError>(
        !is_parted || options.world_size == 1 || stream->size().has_value(),
        "world_size is {}, but the size of the IterableDataset is not known, so the processes "
        "would have different numbers of batches; expected a dataset with a size (num_samples of "
        "a TarDataset)",
        options.world_size);
    require<ConfigError>(
        options.world_size == 1 || options.drop_last,
        "world_size is {} and drop_last is false, but an IterableDataset cannot share out a last "
        "batch whose size it does not know; expected drop_last true",
        options.world_size);
    require<ConfigError>(
        !stream->size() || stream_batches() != 0,
        "batch_size is {} and drop_last is {}, but each of the {} threads of {} processes gets "
        "less than a batch of the dataset's {} samples",
        options.batch_size, options.drop_last, reading_threads(options), options.world_size,
        stream->size().value_or(0));
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    stop_reading();
    {
      const std::lock_guard lock(mutex);
      is_closing = true;
    }
    work.notify_all();
    for (auto& thread : threads) thread.join();
  }

  int64_t global_size() const { return options.batch_size * options.world_size; }

  std::shared_ptr<BatchSource> open_source() const {
    const uint64_t augmentation_seed = epoch_seed(options.seed, position.epoch, kAugmentationStream);
    if (is_parted) return std::make_shared<PartedBatches>(stream, augmentation_seed, options, next_to_give());
    if (stream) return std::make_shared<StreamedBatches>(stream, augmentation_seed, options);
    const uint64_t order_seed = epoch_seed(options.seed, position.epoch, kOrderStream);
    return std::make_shared<PlannedBatches>(
        dataset, plan_epoch(samples, options.shuffle ? std::optional(order_seed) : std::nullopt),
        augmentation_seed, options);
  }

  void start_pass() {
    auto started = open_source();
    const std::lock_guard lock(mutex);
    pass = std::move(started);
    next_to_read = next_to_give();
    limit = next_to_read + options.num_workers * options.prefetch;
    ready.clear();
  }

  void stop_reading() {
    const std::lock_guard lock(mutex);
    pass.reset();
    ready.clear();
  }

  /// Returns the number of batches of a stream whose size is known.
  int64_t stream_batches() const {
    const int64_t total = stream->size().value_or(0);
    if (!is_parted)
      return planned_batches({.size = total, .batch_size = global_size(), .drop_last = options.drop_last});
    int64_t count = 0;
    for (int64_t worker = 0; worker < reading_threads(options); ++worker)
      count += planned_batches({.size = part_of(options, worker).share_of(total),
                                .batch_size = options.batch_size,
                                .drop_last = options.drop_last});
    return count;
  }

  int64_t next_to_give() const { return position.index / global_size(); }

  /// Starts the threads. The first call of next() does this.
  void start_threads() {
    while (static_cast<int64_t>(threads.size()) < options.num_workers)
      threads.emplace_back([this] { serve(); });
  }

  static LoaderResult read(BatchSource& from, int64_t number) {
    LoaderResult result;
    try {
      result.loaded = from.read(number);
    } catch (...) {
      result.error = std::current_exception();
    }
    return result;
  }

  void serve() {
    use_one_intraop_thread();
    std::unique_lock lock(mutex);
    while (true) {
      work.wait(lock, [this] { return is_closing || (pass && next_to_read < std::min(limit, batches)); });
      if (is_closing) return;
      const auto mine = pass;
      const int64_t number = next_to_read++;
      lock.unlock();
      LoaderResult result = read(*mine, number);
      lock.lock();
      if (mine != pass) continue;
      ready.emplace(number, std::move(result));
      arrived.notify_all();
    }
  }

  LoaderResult take(int64_t number) {
    start_threads();
    std::unique_lock lock(mutex);
    limit = number + options.num_workers * options.prefetch;
    work.notify_all();
    arrived.wait(lock, [&] { return ready.contains(number); });
    LoaderResult result = std::move(ready.extract(number).mapped());
    return result;
  }

  std::optional<Batch> end_epoch() {
    stop_reading();
    position = {position.epoch + 1, 0};
    return std::nullopt;
  }

  std::shared_ptr<const Dataset> dataset;  // either `dataset` or `stream` is set
  std::shared_ptr<const IterableDataset> stream;
  DataLoaderOptions options;
  bool is_parted = false;  // each thread reads a part of `stream`
  std::vector<int64_t> buckets;
  EpochSamples samples;
  int64_t batches = 0;
  DataLoaderPosition position;
  BatchRows rows;

  std::mutex mutex;  // guards the members below except `threads`
  std::condition_variable work;
  std::condition_variable arrived;
  // Each pass has its own source, so that a slow thread of an old pass cannot affect the new one.
  std::shared_ptr<BatchSource> pass;
  int64_t next_to_read = 0;
  int64_t limit = 0;
  std::map<int64_t, LoaderResult> ready;
  bool is_closing = false;
  std::vector<std::thread> threads;
};

DataLoader::DataLoader(std::unique_ptr<State> state) : state_(std::move(state)) {}
DataLoader::DataLoader(const Dataset& dataset, const DataLoaderOptions& options)
    : DataLoader(std::shared_ptr<const Dataset>(std::shared_ptr<void>(), &dataset), options) {}
DataLoader::DataLoader(std::shared_ptr<const Dataset> dataset, const DataLoaderOptions& options)
    : DataLoader(std::make_unique<State>(std::move(dataset), options)) {}
DataLoader::DataLoader(const IterableDataset& dataset, const DataLoaderOptions& options)
    : DataLoader(std::shared_ptr<const IterableDataset>(std::shared_ptr<void>(), &dataset), options) {}
DataLoader::DataLoader(std::shared_ptr<const IterableDataset> dataset, const DataLoaderOptions& options)
    : DataLoader(std::make_unique<State>(std::move(dataset), options)) {}
DataLoader::DataLoader(DataLoader&&) noexcept = default;
DataLoader& DataLoader::operator=(DataLoader&&) noexcept = default;
DataLoader::~DataLoader() = default;

int64_t DataLoader::size() const {
  const State& state = *state_;
  if (!state.stream) return state.batches;
  require(state.stream->size().has_value(),
          "the number of batches is not known: the IterableDataset has no size()");
  return state.stream_batches();
}

const DataLoaderOptions& DataLoader::options() const { return state_->options; }
DataLoaderPosition DataLoader::position() const { return state_->position; }
BatchRows DataLoader::rows() const { return state_->rows; }

std::optional<Batch> DataLoader::next() {
  State& state = *state_;
  // After as many absent batches as there are parts, all parts have ended.
  const int64_t parts = state.is_parted ? reading_threads(state.options) : 1;
  const int64_t first = state.next_to_give();
  for (int64_t number = first; number < std::min(state.batches, first + parts); ++number) {
    if (!state.pass) state.start_pass();
    LoaderResult result =
        state.options.num_workers == 0 ? State::read(*state.pass, number) : state.take(number);
    if (result.error) {
      state.stop_reading();
      std::rethrow_exception(result.error);
    }
    if (!result.loaded) break;
    if (result.loaded->is_absent) continue;
    state.position.index = (number + 1) * state.global_size();
    state.rows = result.loaded->rows;
    return std::move(result.loaded->batch);
  }
  return state.end_epoch();
}

void DataLoader::set_epoch(int64_t epoch) {
  if (epoch != state_->position.epoch) restore({epoch, 0});
}

void DataLoader::restore(const DataLoaderPosition& position) {
  const State& state = *state_;
  const int64_t global_size = state.global_size();
  require<ConfigError>(position.epoch >= 0, "epoch is {}, expected 0 or more", position.epoch);
  const bool is_inside = position.index >= 0 && position.index / global_size <= state.batches;
  require<ConfigError>(is_inside && position.index % global_size == 0,
                       "a position of {} samples in an epoch of {} batches of {}", position.index,
                       state.stream ? "any number of" : fmt::format("{}", state.batches), global_size);
  state_->stop_reading();
  state_->position = position;
}

}  // namespace diffusers

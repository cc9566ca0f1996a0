#include <algorithm>
#include <condition_variable>
#include <exception>
#include <map>
#include <mutex>
#include <numeric>
#include <span>
#include <thread>
#include <vector>

#include <diffusers/core/logging.h>
#include <diffusers/core/random.h>
#include <diffusers/data/loader.h>

#include <ATen/ATen.h>

#include "core/parallel.h"
#include "core/require.h"
#include "data/batch_checks.h"
#include "data/transforms.h"

namespace diffusers {
namespace {

/// Different streams of one seed.
enum : uint64_t { kOrderStream = 1, kAugmentationStream = 2 };

uint64_t epoch_seed(uint64_t seed, int64_t epoch, uint64_t stream) {
  return ExampleRandom::mix(ExampleRandom::mix(ExampleRandom::mix(seed) ^ static_cast<uint64_t>(epoch)) ^
                            stream);
}

/// The order of an epoch (Fisher and Yates): our own, so that no version of LibTorch changes it under a
/// resumed run.
std::vector<int64_t> epoch_order(int64_t size, const DataLoaderOptions& options, int64_t epoch) {
  std::vector<int64_t> order(static_cast<std::size_t>(size));
  std::iota(order.begin(), order.end(), int64_t{0});
  if (!options.shuffle) return order;
  ExampleRandom random(epoch_seed(options.seed, epoch, kOrderStream), 0);
  for (std::size_t i = order.size(); i > 1; --i)
    std::swap(order[i - 1], order[static_cast<std::size_t>(random.below(static_cast<int64_t>(i)))]);
  return order;
}

}  // namespace

/// What the threads of one epoch share. Each pass has its own, so that a late worker of an old one cannot
/// disturb it.
struct LoaderPass {
  std::vector<int64_t> order;
  uint64_t augmentation_seed = 0;
};

struct LoaderResult {
  Batch batch;
  std::exception_ptr error;
};

struct DataLoader::State {
  State(std::shared_ptr<const Dataset> data, const DataLoaderOptions& given)
      : dataset(std::move(data)), options(given) {
    require<ConfigError>(dataset != nullptr, "the loader got no data set");
    require<ConfigError>(options.batch_size >= 1, "batch_size is {}, expected at least 1",
                         options.batch_size);
    require<ConfigError>(options.num_workers >= 0 && options.num_workers <= 1024,
                         "num_workers is {}, expected 0 to 1024", options.num_workers);
    require<ConfigError>(options.prefetch >= 1 && options.prefetch <= 1024,
                         "prefetch is {}, expected 1 to 1024", options.prefetch);
    examples = dataset->size();
    require<ConfigError>(examples > 0, "the data set is empty");
    batches =
        examples / options.batch_size + (!options.drop_last && examples % options.batch_size != 0 ? 1 : 0);
    require<ConfigError>(batches > 0,
                         "batch_size is {} and drop_last is true, but the data set has only {} examples",
                         options.batch_size, examples);
    if (options.pin_memory && !at::hasCUDA()) {
      warn_once("pin_memory has no effect: there is no CUDA device");
      options.pin_memory = false;
    }
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

  Batch read(const LoaderPass& of, int64_t number) const {
    const auto first = static_cast<std::size_t>(number * options.batch_size);
    const std::size_t count = std::min(static_cast<std::size_t>(options.batch_size), of.order.size() - first);
    Batch batch = dataset->get_batch(std::span(of.order).subspan(first, count), of.augmentation_seed);
    require_sample_count(batch, static_cast<int64_t>(count));
    if (options.pin_memory) {
      if (batch.images.defined()) batch.images = batch.images.pin_memory();
      if (batch.class_labels.defined()) batch.class_labels = batch.class_labels.pin_memory();
    }
    return batch;
  }

  void start_pass() {
    auto started = std::make_shared<LoaderPass>();
    started->order = epoch_order(examples, options, position.epoch);
    started->augmentation_seed = epoch_seed(options.seed, position.epoch, kAugmentationStream);
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

  int64_t next_to_give() const { return position.index / options.batch_size; }

  /// Threads start with the first batch that is asked for.
  void start_threads() {
    while (static_cast<int64_t>(threads.size()) < options.num_workers)
      threads.emplace_back([this] { serve(); });
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
      LoaderResult result;
      try {
        result.batch = read(*mine, number);
      } catch (...) {
        result.error = std::current_exception();
      }
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

  std::shared_ptr<const Dataset> dataset;
  DataLoaderOptions options;
  int64_t examples = 0;
  int64_t batches = 0;
  DataLoaderPosition position;

  std::mutex mutex;  // guards what follows, but for `threads`
  std::condition_variable work;
  std::condition_variable arrived;
  std::shared_ptr<const LoaderPass> pass;
  int64_t next_to_read = 0;
  int64_t limit = 0;
  std::map<int64_t, LoaderResult> ready;
  bool is_closing = false;
  std::vector<std::thread> threads;
};

DataLoader::DataLoader(const Dataset& dataset, const DataLoaderOptions& options)
    : DataLoader(std::shared_ptr<const Dataset>(std::shared_ptr<void>(), &dataset), options) {}
DataLoader::DataLoader(std::shared_ptr<const Dataset> dataset, const DataLoaderOptions& options)
    : state_(std::make_unique<State>(std::move(dataset), options)) {}
DataLoader::DataLoader(DataLoader&&) noexcept = default;
DataLoader& DataLoader::operator=(DataLoader&&) noexcept = default;
DataLoader::~DataLoader() = default;

int64_t DataLoader::size() const { return state_->batches; }
const DataLoaderOptions& DataLoader::options() const { return state_->options; }
DataLoaderPosition DataLoader::position() const { return state_->position; }

std::optional<Batch> DataLoader::next() {
  State& state = *state_;
  const int64_t number = state.next_to_give();
  if (number >= state.batches) {
    state.stop_reading();
    state.position = {state.position.epoch + 1, 0};
    return std::nullopt;
  }
  if (!state.pass) state.start_pass();
  LoaderResult result;
  if (state.options.num_workers == 0) {
    result.batch = state.read(*state.pass, number);
  } else {
    result = state.take(number);
  }
  if (result.error) {
    state.stop_reading();
    std::rethrow_exception(result.error);
  }
  state.position.index = (number + 1) * state.options.batch_size;
  return std::move(result.batch);
}

void DataLoader::set_epoch(int64_t epoch) {
  if (epoch != state_->position.epoch) restore({epoch, 0});
}

void DataLoader::restore(const DataLoaderPosition& position) {
  const State& state = *state_;
  require<ConfigError>(position.epoch >= 0, "epoch is {}, expected 0 or more", position.epoch);
  require<ConfigError>(position.index >= 0 && position.index <= state.batches * state.options.batch_size &&
                           position.index % state.options.batch_size == 0,
                       "a position of {} examples in an epoch of {} batches of {}", position.index,
                       state.batches, state.options.batch_size);
  state_->stop_reading();
  state_->position = position;
}

}  // namespace diffusers

#pragma once

#include <concepts>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include <diffusers/data/dataset.h>
#include <diffusers/data/iterable_dataset.h>

namespace diffusers {

/// Options of a `DataLoader`.
struct DataLoaderOptions {
  /// Number of samples in a batch of this process.
  int64_t batch_size = 1;
  /// Shuffles the samples anew in each epoch. The default keeps the order of the dataset, as in Python. Must
  /// be false for an `IterableDataset`.
  bool shuffle = false;
  /// Drops the last batch of an epoch if it is smaller.
  bool drop_last = false;
  /// Seed of the order and of random augmentation.
  uint64_t seed = 0;
  /// Number of threads that read ahead, 0 to 1024. With 0, `next` reads the batch in the calling thread. For
  /// an `IterableDataset` at most 1, or `max_parts() / world_size`: each thread then reads a part of the
  /// data.
  int64_t num_workers = 0;
  /// Number of batches that each thread reads ahead, 1 to 1024.
  int64_t prefetch = 2;
  /// Copies batches to page-locked memory, from which a CUDA device reads without blocking the host.
  bool pin_memory = false;
  /// Rank of this process, in [0, world_size).
  int64_t rank = 0;
  /// Number of processes that train together. All processes use the same order of samples. Each process reads
  /// its rows of every global batch, which has `batch_size * world_size` samples.
  int64_t world_size = 1;
};

/// The position of a loader in its data. Checkpoints save it; a restored loader continues with the same
/// batches.
struct DataLoaderPosition {
  int64_t epoch = 0;  ///< Number of completed epochs.
  /// Number of batches returned in the epoch, times `batch_size * world_size`. If several threads read parts
  /// of an `IterableDataset`, the turns of parts that have ended count too.
  int64_t index = 0;
  /// Compares both numbers.
  bool operator==(const DataLoaderPosition&) const = default;
};

/// The rows of the global batch that a process reads.
struct BatchRows {
  int64_t begin = 0;  ///< First row.
  int64_t end = 0;    ///< One past the last row.
  int64_t total = 0;  ///< Number of rows of all processes together.
  /// Compares all numbers.
  bool operator==(const BatchRows&) const = default;
};

/// Reads batches of a dataset, epoch after epoch. The samples of a batch and their augmentation depend only
/// on (seed, epoch), for any number of threads and from any saved position.
/// @code
/// DataLoader loader(dataset, {.batch_size = 64, .shuffle = true});
/// for (int64_t epoch = 0; epoch < 3; ++epoch)
///   for (const Batch& batch : loader) ...
/// @endcode
/// If the dataset has random access, `Batch::indices` holds the positions in the dataset. If the dataset has
/// `buckets()`, each batch comes from one bucket. If a bucket has too few samples left for a batch, the
/// smaller batch comes at the end of the epoch.
///
/// An `IterableDataset` whose `max_parts()` is above 1 is shared out: each thread of each process reads
/// another part, and the threads of a process return their batches in turn. The order then depends on the
/// number of processes and threads.
///
/// A loader must be used by one thread at a time. `next` rethrows an exception of the dataset; the following
/// call tries the batch again.
class DataLoader {
 public:
  /// Reads a dataset with random access.
  /// @param dataset the dataset, which must outlive the loader
  /// @param options see DataLoaderOptions
  /// @throws ConfigError if an option is out of range, if the dataset is empty, or if `drop_last` is true and
  ///         the dataset has no complete batch
  explicit DataLoader(const Dataset& dataset, const DataLoaderOptions& options = {});
  /// Reads a dataset with random access and shares its ownership.
  /// @param dataset the dataset
  /// @param options see DataLoaderOptions
  /// @throws ConfigError as for a reference, or if `dataset` is null
  explicit DataLoader(std::shared_ptr<const Dataset> dataset, const DataLoaderOptions& options = {});
  /// Reads an iterable dataset.
  /// @param dataset the dataset, which must outlive the loader
  /// @param options `shuffle` must be false, and `num_workers` at most 1 or `max_parts() / world_size`. With
  /// several
  ///         processes `drop_last` must be true, and a dataset with several parts needs a `size()`, because
  ///         all processes must have the same number of batches.
  /// @throws ConfigError if an option is out of range or not supported for an iterable dataset
  explicit DataLoader(const IterableDataset& dataset, const DataLoaderOptions& options = {});
  /// Reads an iterable dataset and shares its ownership.
  /// @param dataset the dataset
  /// @param options as for a reference
  /// @throws ConfigError as for a reference, or if `dataset` is null
  explicit DataLoader(std::shared_ptr<const IterableDataset> dataset, const DataLoaderOptions& options = {});
  /// Takes ownership of a temporary dataset.
  /// @param dataset the dataset, which is moved into the loader
  /// @param options see DataLoaderOptions
  /// @throws ConfigError as the other constructors
  template <class D>
  requires(!std::is_lvalue_reference_v<D> &&
           std::derived_from<std::remove_cv_t<D>,
                             Dataset>) explicit DataLoader(D&& dataset, const DataLoaderOptions& options = {})
      : DataLoader(
            std::shared_ptr<const Dataset>(std::make_shared<std::remove_cv_t<D>>(std::forward<D>(dataset))),
            options) {}
  /// Takes ownership of a temporary dataset.
  /// @param dataset the dataset, which is moved into the loader
  /// @param options see DataLoaderOptions
  /// @throws ConfigError as the other constructors
  template <class D>
  requires(!std::is_lvalue_reference_v<D> &&
           std::derived_from<std::remove_cv_t<D>,
                             IterableDataset>) explicit DataLoader(D&& dataset,
                                                                   const DataLoaderOptions& options = {})
      : DataLoader(std::shared_ptr<const IterableDataset>(
                       std::make_shared<std::remove_cv_t<D>>(std::forward<D>(dataset))),
                   options) {}
  /// Moves a loader.
  DataLoader(DataLoader&&) noexcept;
  /// Moves a loader.
  DataLoader& operator=(DataLoader&&) noexcept;
  /// Waits for the reads in progress and cancels the reads that have not started.
  ~DataLoader();

  /// Returns the number of batches in an epoch.
  /// @return batches of an epoch
  /// @throws Error if the dataset is an `IterableDataset` whose size is not known
  int64_t size() const;
  /// Returns the options in force. `pin_memory` is false without a CUDA device.
  const DataLoaderOptions& options() const;

  /// Reads the next batch.
  /// @return the batch; nullopt once at the end of an epoch, after which the next epoch begins. If the last
  ///         global batch has fewer samples than there are processes, a process without rows gets a batch of
  ///         size 0.
  /// @throws TensorError if the dataset returns a wrong number of samples; any exception of the dataset
  std::optional<Batch> next();
  /// Returns the rows of the global batch that the last batch of `next` holds.
  BatchRows rows() const;

  /// Moves to the start of an epoch. If the loader is in that epoch already, its position does not change.
  /// @param epoch 0 or more
  /// @throws ConfigError if the epoch is negative
  void set_epoch(int64_t epoch);
  /// Returns the epoch of the next batch.
  int64_t epoch() const { return position().epoch; }
  /// Returns the position of the next batch.
  DataLoaderPosition position() const;
  /// Moves to a saved position.
  /// @param position a result of `position()`
  /// @throws ConfigError if it is outside of the dataset or not at the start of a batch
  void restore(const DataLoaderPosition& position);

  /// An input iterator. It makes one pass from the current position to the end of the epoch.
  class Iterator {
   public:
    using iterator_category = std::input_iterator_tag;  ///< Kind of iterator.
    using value_type = Batch;                           ///< Type of the elements.
    using difference_type = std::ptrdiff_t;             ///< Type of a distance.
    using pointer = Batch*;                             ///< Pointer to an element.
    using reference = Batch&;                           ///< Reference to an element.

    /// Makes an iterator at the end.
    Iterator() = default;
    /// Reads the first batch.
    explicit Iterator(DataLoader& loader) : loader_(&loader) { ++*this; }
    /// Returns the batch.
    Batch& operator*() { return *batch_; }
    /// Accesses a member of the batch.
    Batch* operator->() { return &*batch_; }
    /// Reads the next batch.
    Iterator& operator++() {
      batch_ = loader_->next();
      return *this;
    }
    /// Reads the next batch.
    void operator++(int) { ++*this; }
    /// Returns true if the epoch has ended.
    bool operator==(std::default_sentinel_t) const { return !batch_.has_value(); }

   private:
    DataLoader* loader_ = nullptr;
    std::optional<Batch> batch_;
  };
  /// Begins a pass from the current position.
  Iterator begin() { return Iterator(*this); }
  /// Returns the end of a pass.
  std::default_sentinel_t end() const { return {}; }

 private:
  struct State;
  explicit DataLoader(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace diffusers

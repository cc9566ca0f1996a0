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
  /// Samples in a batch of this process.
  int64_t batch_size = 1;
  /// Draws a new order in each epoch. The default keeps the order of the dataset, as in Python. Must be false
  /// for an `IterableDataset`.
  bool shuffle = false;
  /// Leaves out a last batch that is smaller.
  bool drop_last = false;
  /// Seed of the order and of random augmentation.
  uint64_t seed = 0;
  /// Threads that read ahead, 0 to 1024. 0 reads a batch when it is asked for. At most 1 for an
  /// `IterableDataset`.
  int64_t num_workers = 0;
  /// Batches that each thread reads ahead, 1 to 1024.
  int64_t prefetch = 2;
  /// Puts batches into page-locked memory, from which a CUDA device copies without blocking the host.
  bool pin_memory = false;
  /// Number of this process among those that train together, in [0, world_size).
  int64_t rank = 0;
  /// Number of processes that train together. All have the same order; each reads its rows of every global
  /// batch of `batch_size * world_size` samples.
  int64_t world_size = 1;
};

/// The position of a loader in its data: saved in order to continue with the same batches.
struct DataLoaderPosition {
  int64_t epoch = 0;  ///< epochs that were completed
  int64_t index = 0;  ///< batches of the epoch that were given, times `batch_size * world_size`
  /// Compares both numbers.
  bool operator==(const DataLoaderPosition&) const = default;
};

/// The rows of the global batch that a process has.
struct BatchRows {
  int64_t begin = 0;  ///< first row
  int64_t end = 0;    ///< one past the last row
  int64_t total = 0;  ///< rows of all processes together
  /// Compares all numbers.
  bool operator==(const BatchRows&) const = default;
};

/// Reads batches of a dataset, epoch after epoch. The samples of a batch and their augmentation depend on
/// (seed, epoch) alone, for any number of threads and from any saved position.
/// @code
/// DataLoader loader(dataset, {.batch_size = 64, .shuffle = true});
/// for (int64_t epoch = 0; epoch < 3; ++epoch)
///   for (const Batch& batch : loader) ...
/// @endcode
/// `Batch::indices` is the position in the dataset, if the dataset has random access. A dataset with
/// `buckets()` gives batches of one bucket each. If a bucket has too few samples left for a batch, the
/// smaller batch comes at the end of the epoch.
///
/// A loader is used by one thread at a time. An exception of the dataset reaches the caller of `next`; the
/// next call tries the batch again.
class DataLoader {
 public:
  /// @param dataset must outlive the loader
  /// @param options see DataLoaderOptions
  /// @throws ConfigError if an option is out of range, if the dataset is empty, or if there is no complete
  ///         batch and `drop_last` is true
  explicit DataLoader(const Dataset& dataset, const DataLoaderOptions& options = {});
  /// Shares the dataset. @copydetails DataLoader(const Dataset&, const DataLoaderOptions&)
  explicit DataLoader(std::shared_ptr<const Dataset> dataset, const DataLoaderOptions& options = {});
  /// Reads a dataset in order.
  /// @param dataset must outlive the loader
  /// @param options shuffle must be false and num_workers at most 1. With several processes drop_last must be
  ///         true: the number of samples is not known before the end.
  /// @throws ConfigError if an option is out of range or does not fit
  explicit DataLoader(const IterableDataset& dataset, const DataLoaderOptions& options = {});
  /// Shares the dataset. @copydetails DataLoader(const IterableDataset&, const DataLoaderOptions&)
  explicit DataLoader(std::shared_ptr<const IterableDataset> dataset, const DataLoaderOptions& options = {});
  /// Takes a temporary dataset over.
  template <class D>
  requires(!std::is_lvalue_reference_v<D> &&
           std::derived_from<std::remove_cv_t<D>,
                             Dataset>) explicit DataLoader(D&& dataset, const DataLoaderOptions& options = {})
      : DataLoader(
            std::shared_ptr<const Dataset>(std::make_shared<std::remove_cv_t<D>>(std::forward<D>(dataset))),
            options) {}
  /// Takes a temporary dataset over.
  template <class D>
  requires(!std::is_lvalue_reference_v<D> &&
           std::derived_from<std::remove_cv_t<D>,
                             IterableDataset>) explicit DataLoader(D&& dataset,
                                                                   const DataLoaderOptions& options = {})
      : DataLoader(std::shared_ptr<const IterableDataset>(
                       std::make_shared<std::remove_cv_t<D>>(std::forward<D>(dataset))),
                   options) {}
  DataLoader(DataLoader&&) noexcept;
  DataLoader& operator=(DataLoader&&) noexcept;
  /// Waits for the reads in progress, not for those that were planned.
  ~DataLoader();

  /// Returns the number of batches in an epoch.
  /// @throws Error if the dataset is an `IterableDataset` whose size is not known
  int64_t size() const;
  /// Returns the options in force. `pin_memory` is false without a CUDA device.
  const DataLoaderOptions& options() const;

  /// Reads the next batch.
  /// @return the batch; nullopt once at the end of an epoch, after which the next epoch begins. With more
  ///         processes than samples in a last global batch, a process without rows gets a batch of size 0.
  /// @throws TensorError if the dataset gives another number of samples than it was asked for, and what the
  ///         dataset throws
  std::optional<Batch> next();
  /// Returns the rows of the global batch that the last batch holds.
  BatchRows rows() const;

  /// Goes to the start of an epoch. If the loader is in that epoch already, it stays where it is.
  /// @param epoch 0 or more
  /// @throws ConfigError if the epoch is negative
  void set_epoch(int64_t epoch);
  /// Returns the epoch of the next batch.
  int64_t epoch() const { return position().epoch; }
  /// Returns the position of the next batch.
  DataLoaderPosition position() const;
  /// Goes to a saved position.
  /// @throws ConfigError if it is outside the dataset or not at the start of a batch
  void restore(const DataLoaderPosition& position);

  /// An input iterator: one pass from the present position to the end of the epoch.
  class Iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = Batch;
    using difference_type = std::ptrdiff_t;
    using pointer = Batch*;
    using reference = Batch&;

    /// An iterator at the end.
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
    /// Returns whether the epoch has ended.
    bool operator==(std::default_sentinel_t) const { return !batch_.has_value(); }

   private:
    DataLoader* loader_ = nullptr;
    std::optional<Batch> batch_;
  };
  /// Begins a pass from the present position.
  Iterator begin() { return Iterator(*this); }
  /// Returns the end of a pass.
  std::default_sentinel_t end() const { return {}; }

 private:
  struct State;
  explicit DataLoader(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace diffusers

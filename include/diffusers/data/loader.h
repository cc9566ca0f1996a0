#pragma once

#include <concepts>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include <diffusers/data/dataset.h>

namespace diffusers {

struct DataLoaderOptions {
  int64_t batch_size = 1;
  bool shuffle = true;
  bool drop_last = false;   ///< leave out a last batch that is smaller
  uint64_t seed = 0;        ///< of the order and of random augmentation
  int64_t num_workers = 0;  ///< threads that read ahead; 0 reads when asked
  int64_t prefetch = 2;     ///< batches that each worker may be ahead
  bool pin_memory = false;  ///< put batches into page-locked memory, from where a CUDA device copies faster
};

/// Where a loader stands: what to save in order to go on with the same batches.
struct DataLoaderPosition {
  int64_t epoch = 0;
  int64_t index = 0;  ///< batches of the epoch that were handed out, times batch_size
  bool operator==(const DataLoaderPosition&) const = default;
};

/// Batches of a data set, epoch after epoch. Which examples come, in which order and with which augmentation,
/// depends on (seed, epoch) alone, whatever the number of workers and wherever one starts.
/// @code
/// DataLoader loader(dataset, {.batch_size = 64});
/// for (int64_t epoch = 0; epoch < 3; ++epoch)
///   for (const Batch& batch : loader) ...
/// @endcode
/// For one thread at a time. An exception of the data set reaches the caller of `next`, who may go on: the
/// batch is tried again.
class DataLoader {
 public:
  /// @param dataset must outlive the loader
  /// @throws ConfigError if the options cannot work or would never give a batch
  explicit DataLoader(const Dataset& dataset, const DataLoaderOptions& options = {});
  explicit DataLoader(std::shared_ptr<const Dataset> dataset, const DataLoaderOptions& options = {});
  /// Takes over a temporary.
  template <class D>
  requires(!std::is_lvalue_reference_v<D> &&
           std::derived_from<std::remove_cv_t<D>,
                             Dataset>) explicit DataLoader(D&& dataset, const DataLoaderOptions& options = {})
      : DataLoader(
            std::shared_ptr<const Dataset>(std::make_shared<std::remove_cv_t<D>>(std::forward<D>(dataset))),
            options) {}
  DataLoader(DataLoader&&) noexcept;
  DataLoader& operator=(DataLoader&&) noexcept;
  /// Waits for the reads in progress, not for those ahead.
  ~DataLoader();

  /// Batches in an epoch.
  int64_t size() const;
  const DataLoaderOptions& options() const;

  /// The next batch; nullopt once at the end of an epoch, after which the next one begins.
  std::optional<Batch> next();

  /// Goes to the start of an epoch; stays where it is if it is in that epoch already.
  void set_epoch(int64_t epoch);
  int64_t epoch() const { return position().epoch; }
  DataLoaderPosition position() const;
  /// Goes to a saved position.
  /// @throws ConfigError if it is outside the data set or not at the start of a batch
  void restore(const DataLoaderPosition& position);

  /// One pass from the present position to the end of the epoch.
  class Iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = Batch;
    using difference_type = std::ptrdiff_t;
    using pointer = Batch*;
    using reference = Batch&;

    Iterator() = default;
    explicit Iterator(DataLoader& loader) : loader_(&loader) { ++*this; }
    Batch& operator*() { return *batch_; }
    Batch* operator->() { return &*batch_; }
    Iterator& operator++() {
      batch_ = loader_->next();
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const { return !batch_.has_value(); }

   private:
    DataLoader* loader_ = nullptr;
    std::optional<Batch> batch_;
  };
  Iterator begin() { return Iterator(*this); }
  std::default_sentinel_t end() const { return {}; }

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace diffusers

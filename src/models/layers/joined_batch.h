#pragma once

// A batch that several processes compute together.

#include <functional>
#include <memory>
#include <utility>

#include <diffusers/core/tensor.h>

namespace torch::nn {
class Module;
}  // namespace torch::nn

namespace diffusers {
inline namespace internal {

/// The part of a batch that this process has, while the others compute the rest. Quantities of the whole
/// batch, such as mean and variance, are summed over the processes.
class JoinedBatch {
 public:
  /// Replaces a tensor by the sum over the processes.
  using AllReduce = std::function<void(const Tensor& tensor)>;

  /// @param all_reduce called with contiguous floating tensors, by all processes in the same order
  /// @param share samples of this process divided by those of all processes; 0: this process has none, and
  ///   computes a sample of another one, which does not count
  JoinedBatch(AllReduce all_reduce, double share) : all_reduce_(std::move(all_reduce)), share_(share) {}

  /// Returns the batch whose loss this thread computes; null: this process has the whole batch.
  static std::shared_ptr<const JoinedBatch> current();

  double share() const { return share_; }
  bool is_stand_in() const { return share_ == 0; }
  /// Returns the sum of a tensor over the processes. A stand-in adds 0.
  Tensor sum(const Tensor& own) const;

 private:
  AllReduce all_reduce_;
  double share_;
};

/// Makes a batch the current one of this thread until the scope ends.
class JoinedBatchScope {
 public:
  /// @param batch null: this process has the whole batch
  explicit JoinedBatchScope(std::shared_ptr<const JoinedBatch> batch);
  JoinedBatchScope(const JoinedBatchScope&) = delete;
  JoinedBatchScope& operator=(const JoinedBatchScope&) = delete;
  ~JoinedBatchScope();

 private:
  std::shared_ptr<const JoinedBatch> before_;
};

/// Statistics of the channels of a joined batch, float64, without a graph.
struct JoinedMoments {
  Tensor count;     ///< 0-dim, values of a channel in the whole batch
  Tensor mean;      ///< `[C]`
  Tensor variance;  ///< `[C]`, the mean squared distance from the mean
};

/// Computes the mean and the variance of each channel over the whole batch.
/// @param what names the layer in messages
/// @param input `[B, C, ...]`, the samples of this process
/// @throws TensorError if the whole batch has one value in each channel
JoinedMoments joined_moments(const char* what, const Tensor& input, const JoinedBatch& batch);

/// Returns true if the model has batch normalisation other than SyncBatchNorm2d: with several
/// processes, each would normalise with the statistics of its samples alone.
bool has_local_batch_statistics(const torch::nn::Module& model);

}  // namespace internal
}  // namespace diffusers

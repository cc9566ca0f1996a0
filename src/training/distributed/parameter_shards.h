#pragma once

// The owners of the parameters when processes divide the state of a training (ZeRO).

#include <cstdint>
#include <unordered_map>
#include <vector>

#include <diffusers/core/tensor.h>

namespace diffusers {
inline namespace internal {

/// Parameters of one owner and one dtype that travel together.
struct ShardBucket {
  int64_t owner = 0;               ///< rank
  std::vector<Tensor> parameters;  ///< the parameters
  int64_t numel = 0;               ///< elements of all of them
};

/// Gives each parameter to one of the processes, as a whole tensor. The largest come first, each to the
/// process that has the fewest bytes so far. All processes compute the same owners.
class ParameterShards {
 public:
  /// @param parameters in the same order on all processes
  /// @param processes number of processes
  /// @param rank number of this process
  ParameterShards(const std::vector<Tensor>& parameters, int64_t processes, int64_t rank);

  /// Returns the number of this process.
  int64_t rank() const { return rank_; }
  /// Returns true for one of the parameters.
  bool contains(const Tensor& parameter) const;
  /// Returns the rank of a parameter's owner.
  /// @throws Error for another tensor
  int64_t owner(const Tensor& parameter) const;
  /// Returns true if this process owns a parameter; false for another tensor.
  bool is_own(const Tensor& parameter) const;
  /// Puts parameters into buckets.
  /// @param parameters some of the parameters; a bucket keeps their order
  /// @param cap_bytes size that a bucket of several parameters does not exceed
  /// @return the buckets, in the order in which they become full
  std::vector<ShardBucket> buckets(const std::vector<Tensor>& parameters, int64_t cap_bytes) const;

 private:
  int64_t rank_;
  std::unordered_map<const void*, int64_t> owners_;
};

/// Returns the part of a flat tensor that belongs to a parameter, as a view of its shape. It has the
/// parameter's order in memory, if the parameter has no gaps.
/// @param flat tensor of one dimension
/// @param begin first element of the part
Tensor part_of_flat(const Tensor& flat, int64_t begin, const Tensor& parameter);

}  // namespace internal
}  // namespace diffusers

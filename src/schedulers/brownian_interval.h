#pragma once

// Brownian motion that depends only on a seed, for any points and any order of queries. The draws equal those
// of `torchsde.BrownianInterval(entropy = seed, tol = 1e-6, pool_size = 24, halfway_tree = True)` bit for
// bit.

#include <cstdint>
#include <vector>

#include <diffusers/core/tensor.h>

namespace diffusers {
inline namespace internal {

/// Returns numpy.random.SeedSequence(entropy, spawn_key = spawn_key, pool_size =
/// pool_size).generate_state(count).
std::vector<uint32_t> seed_sequence_state(uint64_t entropy, const std::vector<uint64_t>& spawn_key,
                                          std::size_t pool_size, std::size_t count);

/// W(t) on [t0, t1], by Brownian bridges on a binary tree of intervals whose ends are rounded to 10^-6. The
/// object stores one tensor. A query walks the tree from its root and repeats the draws that it needs.
class BrownianInterval {
 public:
  /// @param like a sample, which gives shape, dtype and device of W
  BrownianInterval(double t0, double t1, const Tensor& like, uint64_t entropy);

  /// Returns W(tb) - W(ta) for ta <= tb. Both are clamped to [t0, t1].
  Tensor increment(double ta, double tb) const;

 private:
  struct Node {
    double start;
    double end;
    uint64_t path;   // one bit for each turn, 1 for right
    uint64_t depth;  // the number of turns
  };
  /// Adds the increment over [ta, tb] to `sum`. The interval is inside of `node`, whose increment is `w`.
  void collect(const Node& node, const Tensor& w, double ta, double tb, Tensor& sum) const;
  Tensor noise(uint64_t seed) const;

  Tensor like_;  // empty tensor that carries dtype and device
  std::vector<int64_t> shape_;
  uint64_t entropy_;
  Node root_;
  Tensor w_;
};

}  // namespace internal
}  // namespace diffusers

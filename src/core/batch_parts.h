#pragma once

// The number of parts that a batch is cut into on the CPU.

#include <cstdint>

namespace diffusers {
inline namespace internal {

/// Sizes of a model's call on a batch.
struct BatchCall {
  int64_t batch_size = 0;  ///< rows of the batch
  int64_t positions = 0;   ///< height times width of the model's input
  int64_t parameters = 0;  ///< numbers in the parameters of the model
  int64_t gradients = 0;   ///< numbers in the gradients that each part computes; 0 without a backward pass
};

/// Returns the number of parts that the batch is cut into on the CPU if the user does not set it. Each thread
/// computes a part. If a part then has more than 32,768 positions, each thread computes several smaller ones,
/// whose activations stay in the cache of its core. The number depends on sizes alone, so that the same
/// machine always rounds alike.
///
/// The batch stays whole if
///  - there is one thread or one row;
///  - a part has fewer than 256 positions, so that reading weights takes longer than computing with them;
///  - positions of a part times parameters are below 2^27: the call is so short that waking threads
///    costs more than it gains;
///  - the threads would wait for each other for more than a quarter of the time, as 2 threads do for 3 rows;
///  - the gradients of a part take more than 64 MiB in float32, where parts were not faster and took more
///    memory;
///  - the gradients of all parts but the first take more than 256 MiB in float32. If smaller parts would take
///    more, each thread computes one part.
/// @param call sizes
/// @param threads number of threads, 1 or more
/// @return 1 or more
int64_t automatic_parts(const BatchCall& call, int64_t threads);

}  // namespace internal
}  // namespace diffusers

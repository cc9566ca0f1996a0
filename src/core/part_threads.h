#pragma once

// Threads that compute the parts of a batch.

#include <cstdint>
#include <functional>

#include "core/parallel.h"

namespace diffusers {
inline namespace internal {

/// Calls `body(i)` once for each i in [0, count), on the calling thread and on threads of a pool: at most
/// `at::get_num_threads()` threads together, or as many as there were before `OneThreadBetweenParts`.
///
/// Each thread runs LibTorch's operations alone, without OpenMP's threads, under the caller's thread-local
/// state. The threads of the pool stay until the process ends. Idle threads, and a caller that waits for
/// them, sleep on a condition variable and take no core, unlike OpenMP's threads.
///
/// Within a body, and while another thread uses the pool, all items run on the calling thread.
/// @param count number of items, 0 or more
/// @param body function that several threads call at once
/// @throws whatever a body throws: the first exception. The items that have not started are left out then
void for_each_part(int64_t count, const std::function<void(int64_t)>& body);

/// Returns the largest number of threads that `for_each_part` uses on the calling thread.
int64_t threads_of_parts();

/// Limits LibTorch's operations on the calling thread to one thread until the scope ends. `for_each_part`
/// keeps its number of threads. Use it around code that calls `for_each_part` and has only small operations
/// between the calls: after each operation on several threads, OpenMP's threads wait actively for some
/// milliseconds, on the cores that the next parts need.
class OneThreadBetweenParts {
 public:
  /// @param is_limited false: the scope changes nothing
  explicit OneThreadBetweenParts(bool is_limited);
  OneThreadBetweenParts(const OneThreadBetweenParts&) = delete;
  OneThreadBetweenParts& operator=(const OneThreadBetweenParts&) = delete;
  ~OneThreadBetweenParts();

 private:
  int64_t threads_before_;
  OneIntraopThread one_thread_;
};

}  // namespace internal
}  // namespace diffusers

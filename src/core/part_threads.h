#pragma once

// Threads that compute the parts of a batch.

#include <cstdint>
#include <functional>

namespace diffusers {
inline namespace internal {

/// Calls `body(i)` once for each i in [0, count), on the calling thread and on threads of a pool: at most
/// `at::get_num_threads()` threads together.
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

}  // namespace internal
}  // namespace diffusers

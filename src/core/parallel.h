#pragma once

#include <cstdint>
#include <functional>

namespace diffusers {
inline namespace internal {

/// Calls `body(first, last)` for parts of [begin, end) of at least `grain` items, on LibTorch's threads.
/// Inside a body LibTorch's operations and this function stay on their thread. The first exception of a body
/// reaches the caller.
///
/// `at::parallel_for` is a template that runs serially, without a word, in sources compiled without OpenMP;
/// here one source is compiled with it for all.
void parallel_for(int64_t begin, int64_t end, int64_t grain,
                  const std::function<void(int64_t, int64_t)>& body);

/// Limits LibTorch's operations on the calling thread, until it ends, to that one thread. For threads that
/// work beside the main one: with a team of their own each they would take the cores from it.
/// `at::set_num_threads` would also limit threads that start later.
void use_one_intraop_thread();

}  // namespace internal
}  // namespace diffusers

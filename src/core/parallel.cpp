#include "core/parallel.h"

#include <ATen/Parallel.h>

#ifndef _OPENMP
#error "compile this source with OpenMP (see src/core/CMakeLists.txt), or every kernel runs on one thread"
#endif
#include <omp.h>

namespace diffusers {
inline namespace internal {

void parallel_for(int64_t begin, int64_t end, int64_t grain,
                  const std::function<void(int64_t, int64_t)>& body) {
  at::parallel_for(begin, end, grain, [&body](int64_t first, int64_t last) {
    // Limits the number of OpenMP threads of this task only. oneDNN reads this number without checking for a
    // nested parallel region: its convolution gradients would wait for threads that never start. LibTorch
    // sets the number on the first call of at::get_num_threads() in a thread, so that call comes first.
    if (omp_in_parallel() != 0 && at::get_num_threads() > 1) omp_set_num_threads(1);
    body(first, last);
  });
}

void use_one_intraop_thread() {
  // LibTorch sets the number on the first call of at::get_num_threads() in a thread, so that call comes
  // first.
  if (at::get_num_threads() > 1) omp_set_num_threads(1);
}

}  // namespace internal
}  // namespace diffusers

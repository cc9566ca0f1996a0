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
    // Of this region's task alone. oneDNN asks how many threads there are and not whether it may have them:
    // its gradients of convolutions would wait for threads that never come. LibTorch sets the number when it
    // is first asked for it in a thread, so that comes first.
    if (omp_in_parallel() != 0 && at::get_num_threads() > 1) omp_set_num_threads(1);
    body(first, last);
  });
}

void use_one_intraop_thread() {
  // LibTorch sets the number when it is first asked for it in a thread, so that comes first.
  if (at::get_num_threads() > 1) omp_set_num_threads(1);
}

}  // namespace internal
}  // namespace diffusers

#include "core/parallel.h"

#include <ATen/Parallel.h>

#ifndef _OPENMP
#error "compile this source with OpenMP (see src/core/CMakeLists.txt), or every kernel runs on one thread"
#endif
#include <omp.h>

// Sets MKL's number of threads in the calling thread; at::set_num_threads sets it for all threads. The
// function is missing in a LibTorch without MKL.
extern "C" int MKL_Set_Num_Threads_Local(int threads) __attribute__((weak));

namespace diffusers {
inline namespace internal {
namespace {

/// Sets MKL's number of threads on the calling thread; 0 is the number of all threads.
/// @return the number before
int set_mkl_threads(int threads) {
  return MKL_Set_Num_Threads_Local == nullptr ? 0 : MKL_Set_Num_Threads_Local(threads);
}

/// LibTorch sets the number of threads on the first use of a thread, so that use comes before a change. The
/// library and the templates of its headers, such as at::parallel_for, each have a first use.
void initialise_thread() {
  at::get_num_threads();
  at::internal::lazy_init_num_threads();
}

}  // namespace

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
  initialise_thread();
  if (at::get_num_threads() > 1) omp_set_num_threads(1);
  set_mkl_threads(1);
}

OneIntraopThread::OneIntraopThread(bool is_limited) : threads_(1) {
  if (!is_limited) return;
  initialise_thread();
  threads_ = at::get_num_threads();
  if (threads_ == 1) return;
  omp_set_num_threads(1);
  mkl_threads_ = set_mkl_threads(1);
}

OneIntraopThread::~OneIntraopThread() {
  if (threads_ == 1) return;
  omp_set_num_threads(threads_);
  set_mkl_threads(mkl_threads_);
}

}  // namespace internal
}  // namespace diffusers

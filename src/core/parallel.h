#pragma once

#include <cstdint>
#include <functional>

namespace diffusers {
inline namespace internal {

/// Calls `body(first, last)` for parts of [begin, end) of at least `grain` items, on LibTorch's threads.
/// Inside a body, LibTorch's operations and this function run on the thread of the body. The first exception
/// of a body is rethrown to the caller.
///
/// `at::parallel_for` is a template that silently runs serially in sources compiled without OpenMP. This
/// function needs OpenMP in its own source only.
void parallel_for(int64_t begin, int64_t end, int64_t grain,
                  const std::function<void(int64_t, int64_t)>& body);

/// Limits LibTorch's operations on the calling thread to one thread, until the thread ends. Call it in worker
/// threads: with OpenMP threads of their own they would take the cores from the main thread.
/// `at::set_num_threads` would also limit threads that start later.
void use_one_intraop_thread();

/// Limits LibTorch's operations on the calling thread to one thread until the scope ends. OpenMP's threads
/// then stay asleep; after an operation they would wait actively for a while.
class OneIntraopThread {
 public:
  /// @param is_limited false: the scope changes nothing
  explicit OneIntraopThread(bool is_limited = true);
  OneIntraopThread(const OneIntraopThread&) = delete;
  OneIntraopThread& operator=(const OneIntraopThread&) = delete;
  ~OneIntraopThread();

 private:
  int threads_;
  int mkl_threads_ = 0;
};

}  // namespace internal
}  // namespace diffusers

#include "core/part_threads.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include <ATen/Parallel.h>
#include <ATen/ThreadLocalState.h>

#include "core/parallel.h"

namespace diffusers {
inline namespace internal {
namespace {

/// True in a thread that runs the items of a job.
thread_local bool is_computing_parts = false;

class ComputingParts {
 public:
  explicit ComputingParts(bool is_computing) : before_(std::exchange(is_computing_parts, is_computing)) {}
  ComputingParts(const ComputingParts&) = delete;
  ComputingParts& operator=(const ComputingParts&) = delete;
  ~ComputingParts() { is_computing_parts = before_; }

 private:
  bool before_;
};

/// The number of threads for parts within `OneThreadBetweenParts`, else 0.
thread_local int64_t threads_for_parts = 0;

/// The items of one call, which the threads take one after another.
class PartJob {
 public:
  PartJob(int64_t count, const std::function<void(int64_t)>& body) : count_(count), body_(body) {}

  /// Takes items until there are none left.
  void work() {
    const at::ThreadLocalStateGuard state(caller_);
    const ComputingParts computing(true);
    for (int64_t i = next_++; i < count_; i = next_++) {
      try {
        body_(i);
      } catch (...) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (!error_) error_ = std::current_exception();
        next_ = count_;
      }
    }
  }

  /// Throws the first exception, after all threads are done.
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  int64_t count_;
  const std::function<void(int64_t)>& body_;
  // The pool's threads do not inherit the thread-local state of the caller, such as the grad mode and the
  // observers of operations.
  at::ThreadLocalState caller_;
  std::atomic<int64_t> next_ = 0;
  std::mutex mutex_;
  std::exception_ptr error_;
};

/// The threads of the process. It is never destroyed, since its threads wait until the process ends.
class PartPool {
 public:
  static PartPool& instance() {
    static PartPool* const pool = new PartPool;
    return *pool;
  }

  /// Runs a job on the calling thread and `helpers` others.
  /// @return false, without running it, if another thread uses the pool
  bool run(PartJob& job, int64_t helpers) {
    const std::unique_lock<std::mutex> use(use_, std::try_to_lock);
    if (!use.owns_lock()) return false;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      for (; threads_ < helpers; ++threads_) std::thread([this] { serve(); }).detach();
      job_ = &job;
      places_ = helpers;
    }
    has_work_.notify_all();
    {
      const OneIntraopThread one_thread;
      job.work();
    }
    std::unique_lock<std::mutex> lock(mutex_);
    places_ = 0;  // threads that have not woken up yet find nothing to do
    is_done_.wait(lock, [this] { return working_ == 0; });
    job_ = nullptr;
    return true;
  }

 private:
  PartPool() = default;

  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      has_work_.wait(lock, [this] { return places_ > 0; });
      --places_;
      ++working_;
      PartJob& job = *job_;
      lock.unlock();
      use_one_intraop_thread();  // code of the program may have set another number
      job.work();
      lock.lock();
      if (--working_ == 0) is_done_.notify_one();
    }
  }

  std::mutex use_;  // held while a job runs
  std::mutex mutex_;
  std::condition_variable has_work_, is_done_;
  PartJob* job_ = nullptr;
  int64_t threads_ = 0;
  int64_t places_ = 0;   // threads that may still join the job
  int64_t working_ = 0;  // threads that have joined it
};

}  // namespace

int64_t threads_of_parts() { return std::max<int64_t>(at::get_num_threads(), threads_for_parts); }

void for_each_part(int64_t count, const std::function<void(int64_t)>& body) {
  const int64_t threads = std::min(count, threads_of_parts());
  if (threads > 1 && !is_computing_parts && !at::in_parallel_region()) {
    PartJob job(count, body);
    if (PartPool::instance().run(job, threads - 1)) {
      job.rethrow();
      return;
    }
  }
  const OneIntraopThread one_thread(count > 1);  // operations round as they do on several threads
  const ComputingParts computing(count > 1 || is_computing_parts);
  for (int64_t i = 0; i < count; ++i) body(i);
}

OneThreadBetweenParts::OneThreadBetweenParts(bool is_limited)
    : threads_before_(std::exchange(threads_for_parts, is_limited ? threads_of_parts() : threads_for_parts)),
      one_thread_(is_limited) {}

OneThreadBetweenParts::~OneThreadBetweenParts() { threads_for_parts = threads_before_; }

}  // namespace internal
}  // namespace diffusers

#pragma once

// Threads that take part in a batch as the processes of a training do.

#include <barrier>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include <ATen/ATen.h>

#include "models/layers/joined_batch.h"

namespace diffusers::test {

/// Runs `body(i)` in one thread for each of `rows`, each with its share of a batch.
/// @param rows samples of each thread; 0: the thread computes a stand-in
inline void run_joined(const std::vector<int64_t>& rows, const std::function<void(std::size_t i)>& body) {
  int64_t total = 0;
  for (const int64_t count : rows) total += count;
  std::barrier barrier(static_cast<std::ptrdiff_t>(rows.size()));
  std::vector<Tensor> own(rows.size());
  std::vector<std::exception_ptr> errors(rows.size());
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < rows.size(); ++i)
    threads.emplace_back([&, i] {
      const auto all_reduce = [&, i](const Tensor& tensor) {
        own[i] = tensor.clone();
        barrier.arrive_and_wait();
        Tensor sum = at::zeros_like(tensor);
        for (const Tensor& each : own) sum += each;
        barrier.arrive_and_wait();
        tensor.copy_(sum);
      };
      const double share = static_cast<double>(rows[i]) / static_cast<double>(total);
      try {
        const JoinedBatchScope scope(std::make_shared<JoinedBatch>(all_reduce, share));
        body(i);
      } catch (const std::exception&) {
        errors[i] = std::current_exception();
        barrier.arrive_and_drop();
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

}  // namespace diffusers::test

#pragma once

// The times of exchanges of gradients, for benchmarks.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace diffusers {
inline namespace internal {

/// The variable that turns the trace on. Its value is the beginning of the names of the files.
inline constexpr const char* kExchangeTraceVariable = "DIFFUSERS_EXCHANGE_TRACE";

/// Records when the backward passes of a process and their exchanges of gradients begin and end. The
/// destructor writes them to VALUE-rankR-N.csv, N = 0 for the first trace of the process: columns kind
/// ("backward" or "exchange"), step, bytes, begin and end in seconds.
class ExchangeTrace {
 public:
  /// @return null if the variable is not set
  static std::shared_ptr<ExchangeTrace> from_environment(int64_t rank);
  /// @param path file that the destructor writes
  explicit ExchangeTrace(std::string path) : path_(std::move(path)) {}
  ExchangeTrace(const ExchangeTrace&) = delete;
  ExchangeTrace& operator=(const ExchangeTrace&) = delete;
  ~ExchangeTrace();

  void begin_backward();
  /// The gradients are computed and exchanged.
  void end_backward();
  /// @return number for `end_exchange`
  std::size_t begin_exchange(int64_t bytes);
  /// Called by any thread.
  void end_exchange(std::size_t number);

 private:
  struct Span {
    const char* kind;
    int64_t step;
    int64_t bytes;
    double begin, end;
  };
  double now() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

  std::string path_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  int64_t step_ = 0;
  std::size_t backward_ = 0;  // index of the span of the backward pass that runs
  std::vector<Span> spans_;
  std::mutex mutex_;
};

}  // namespace internal
}  // namespace diffusers

#include "training/distributed/exchange_trace.h"

#include <atomic>
#include <cstdlib>
#include <exception>

#include <diffusers/core/logging.h>
#include <diffusers/io/files.h>

#include <fmt/format.h>

namespace diffusers {
inline namespace internal {

std::shared_ptr<ExchangeTrace> ExchangeTrace::from_environment(int64_t rank) {
  const char* prefix = std::getenv(kExchangeTraceVariable);
  if (prefix == nullptr || *prefix == '\0') return nullptr;
  static std::atomic<int> count{0};
  return std::make_shared<ExchangeTrace>(fmt::format("{}-rank{}-{}.csv", prefix, rank, count++));
}

ExchangeTrace::~ExchangeTrace() {
  try {
    std::string text = "kind,step,bytes,begin,end\n";
    for (const Span& span : spans_)
      text += fmt::format("{},{},{},{:.9f},{:.9f}\n", span.kind, span.step, span.bytes, span.begin, span.end);
    write_file(text, path_);
  } catch (const std::exception& error) {
    log_message(LogLevel::kWarning, fmt::format("the trace of exchanges was not written: {}", error.what()));
  }
}

void ExchangeTrace::begin_backward() {
  const std::lock_guard lock(mutex_);
  backward_ = spans_.size();
  spans_.push_back({"backward", step_, 0, now(), 0.0});
}

void ExchangeTrace::end_backward() {
  const std::lock_guard lock(mutex_);
  spans_[backward_].end = now();
  ++step_;
}

std::size_t ExchangeTrace::begin_exchange(int64_t bytes) {
  const std::lock_guard lock(mutex_);
  spans_.push_back({"exchange", step_, bytes, now(), 0.0});
  return spans_.size() - 1;
}

void ExchangeTrace::end_exchange(std::size_t number) {
  const std::lock_guard lock(mutex_);
  spans_[number].end = now();
}

}  // namespace internal
}  // namespace diffusers

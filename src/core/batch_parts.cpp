#include "core/batch_parts.h"

#include <algorithm>

namespace diffusers {
inline namespace internal {
namespace {

constexpr int64_t kLeastPositions = 256;
constexpr int64_t kMostPositions = 32768;
constexpr double kLeastWork = 134217728;       // 2^27 positions times parameters
constexpr double kMostGradients = 67108864;    // 2^26 numbers: 256 MiB of float32
constexpr int64_t kMostOfAPart = 1 << 24;      // numbers in the gradients of a part: 64 MiB of float32
constexpr double kLeastShareOfThreads = 0.75;  // of the time in which the threads compute

}  // namespace

int64_t automatic_parts(const BatchCall& call, int64_t threads) {
  if (threads < 2 || call.batch_size < 2 || call.gradients > kMostOfAPart) return 1;
  const auto quotient = [](int64_t number, int64_t divisor) { return (number + divisor - 1) / divisor; };
  const auto real = [](int64_t number) { return static_cast<double>(number); };
  const auto fits = [&](int64_t parts) { return real(parts - 1) * real(call.gradients) <= kMostGradients; };

  int64_t rows = quotient(call.batch_size, threads);
  if (rows * call.positions < kLeastPositions ||
      real(rows * call.positions) * real(call.parameters) < kLeastWork)
    return 1;
  if (real(call.batch_size) < kLeastShareOfThreads * real(rows) * real(threads)) return 1;
  if (!fits(quotient(call.batch_size, rows))) return 1;

  // Several parts for each thread.
  const int64_t most_rows = std::max<int64_t>(kMostPositions / call.positions, 1);
  const int64_t rounds = quotient(rows, most_rows);
  const int64_t fewer_rows = quotient(call.batch_size, threads * rounds);
  if (fits(quotient(call.batch_size, fewer_rows))) rows = fewer_rows;
  return quotient(call.batch_size, rows);
}

}  // namespace internal
}  // namespace diffusers

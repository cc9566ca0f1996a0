#include "core/batch_parts.h"

#include <algorithm>

namespace diffusers {
inline namespace internal {
namespace {

constexpr int64_t kLeastPositions = 256;
constexpr double kLeastWork = 134217728;       // 2^27 positions times parameters
constexpr double kMostGradients = 67108864;    // 2^26 numbers: 256 MiB of float32
constexpr double kLeastShareOfThreads = 0.75;  // of the time in which the threads compute

}  // namespace

int64_t automatic_parts(const BatchCall& call, int64_t threads) {
  if (threads < 2 || call.batch_size < 2) return 1;
  const int64_t rows = (call.batch_size + threads - 1) / threads;
  const int64_t parts = (call.batch_size + rows - 1) / rows;
  const int64_t positions = rows * call.positions;
  const auto real = [](int64_t number) { return static_cast<double>(number); };
  if (positions < kLeastPositions || real(positions) * real(call.parameters) < kLeastWork) return 1;
  if (real(call.batch_size) < kLeastShareOfThreads * real(rows) * real(threads)) return 1;
  if (real(parts - 1) * real(call.gradients) > kMostGradients) return 1;
  return parts;
}

}  // namespace internal
}  // namespace diffusers

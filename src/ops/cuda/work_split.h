#pragma once

// The division of arrays among the blocks and threads of a kernel.

#include "ops/cuda/host_device.h"

namespace diffusers {
inline namespace internal {
namespace cuda {

/// `lines` arrays of `length` elements. Block `line * splits + part` processes the elements
/// `[part * part_length, (part + 1) * part_length)` of a line. Several parts share a line if there are too
/// few lines to occupy a device.
struct WorkSplit {
  int64_t lines = 0;
  int64_t length = 0;
  int64_t part_length = 0;
  int64_t splits = 0;

  DIFFUSERS_HOST_DEVICE int64_t blocks() const { return lines * splits; }
  DIFFUSERS_HOST_DEVICE int64_t line(int64_t block) const { return block / splits; }
  DIFFUSERS_HOST_DEVICE int64_t begin(int64_t block) const { return block % splits * part_length; }
  DIFFUSERS_HOST_DEVICE int64_t end(int64_t block) const { return least(begin(block) + part_length, length); }
  /// Returns the number of elements of a part.
  DIFFUSERS_HOST_DEVICE int64_t part_size(int64_t part) const {
    return least(part_length, length - part * part_length);
  }
};

/// Blocks that occupy a device of 132 multiprocessors (H100, H200), four to each.
constexpr int64_t kWantedBlocks = 528;

/// Splits the lines until there are `kWantedBlocks` blocks, but not into parts below `least_part`.
/// @param quantum part_length is a multiple of it
inline WorkSplit split_work(int64_t lines, int64_t length, int64_t least_part, int64_t quantum) {
  const int64_t wanted = divide_up(kWantedBlocks, most(lines, 1));
  const int64_t possible = most(length / most(least_part, 1), 1);
  const int64_t part = divide_up(divide_up(length, least(wanted, possible)), quantum) * quantum;
  return {lines, length, part, divide_up(length, part)};
}

/// Returns the threads of a block for `work` vectors, whole warps.
inline int threads_for(int64_t work) {
  int threads = kWarpSize;
  while (threads < kMostThreads && threads < work) threads *= 2;
  return threads;
}

/// Calls visit(i) with the first element of each vector of the block that belongs to a thread.
DIFFUSERS_ANY_CALLER
template <int kVector, class Visit>
DIFFUSERS_HOST_DEVICE void for_each_vector(const WorkSplit& split, int64_t block, int thread, int threads,
                                           const Visit& visit) {
  const int64_t end = split.end(block);
  for (int64_t i = split.begin(block) + int64_t{thread} * kVector; i < end; i += int64_t{threads} * kVector)
    visit(i);
}

/// The threads of a block over rows of `columns` vectors, for channels-last images: `width` threads side by
/// side, in `lanes` rows at a time.
struct RowGrid {
  int columns = 0;
  int width = 0;
  int lanes = 0;

  DIFFUSERS_HOST_DEVICE RowGrid(int column_count, int threads)
      : columns(column_count),
        width(column_count < threads ? column_count : threads),
        lanes(threads / width) {}

  DIFFUSERS_HOST_DEVICE int column(int thread) const { return thread % width; }
  DIFFUSERS_HOST_DEVICE int lane(int thread) const { return thread / width; }
  /// Returns true if the thread has work in the pass over the columns from `first_column` on.
  DIFFUSERS_HOST_DEVICE bool works(int thread, int first_column) const {
    return lane(thread) < lanes && first_column + column(thread) < columns;
  }
  /// Returns the number of rows of a lane in a part of `rows` rows.
  DIFFUSERS_HOST_DEVICE int64_t rows_of_lane(int64_t rows, int lane) const {
    return rows > lane ? divide_up(rows - lane, lanes) : 0;
  }
};

/// Calls visit(row) for each row of the block that belongs to a lane.
DIFFUSERS_ANY_CALLER
template <class Visit>
DIFFUSERS_HOST_DEVICE void for_each_row(const WorkSplit& split, const RowGrid& grid, int64_t block, int lane,
                                        const Visit& visit) {
  const int64_t end = split.end(block);
  for (int64_t row = split.begin(block) + lane; row < end; row += grid.lanes) visit(row);
}

}  // namespace cuda
}  // namespace internal
}  // namespace diffusers

#pragma once

// Checkpoints that are written while the training goes on: the training takes copies, a thread writes them.

#include <cstdint>
#include <future>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/tensor_map.h>
#include <diffusers/training/saved_module.h>

namespace diffusers {
inline namespace internal {

/// One checkpoint, as it is to be written.
struct CheckpointContent {
  std::string output_dir;
  int64_t step = 0;
  std::vector<std::pair<std::string, SnapshotWriter>> models;  // by the name of the folder
  std::map<std::string, TensorMap> tensors;                    // by the name of the file
  std::map<std::string, std::string> texts;
  std::optional<int64_t> total_limit;  // of the checkpoints, older ones are removed
  /// Files that are appended to: a training that goes on from the checkpoint has all the lines before it.
  std::vector<std::string> logs;
};

/// Writes, publishes and only then removes older checkpoints.
/// @throws FileError with nothing left behind and the checkpoints before whole
void write_checkpoint(const CheckpointContent& content);

/// Writes one checkpoint at a time in a thread of its own.
class CheckpointWriter {
 public:
  CheckpointWriter() = default;
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;
  /// Waits. An error that nobody asked for is logged.
  ~CheckpointWriter();

  /// Begins to write, after the one before is done. @throws what that one failed with
  void start(CheckpointContent content);
  /// Waits for the one that is being written. @throws what it failed with, once
  void wait();
  /// Does not wait. @throws what the last one failed with, if it is done, once
  void check();

 private:
  std::future<void> in_flight_;
};

}  // namespace internal
}  // namespace diffusers

#pragma once

// Checkpoints in the background: the training copies its state, and a thread writes the copy.

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

/// Content of a checkpoint.
struct CheckpointContent {
  std::string output_dir;
  int64_t step = 0;
  std::vector<std::pair<std::string, SnapshotWriter>> models;  // by folder name
  std::map<std::string, TensorMap> tensors;                    // by file name
  std::map<std::string, std::string> texts;
  std::optional<int64_t> total_limit;  // maximum number of checkpoints
  /// Files that are appended to, such as metrics. They are synced first, so that a training that resumes from
  /// the checkpoint has all of their earlier lines.
  std::vector<std::string> logs;
};

/// Writes and publishes a checkpoint, then removes older ones.
/// @throws FileError if it cannot be written; it leaves no files, and older checkpoints stay complete
void write_checkpoint(const CheckpointContent& content);

/// Writes checkpoints in a background thread, one at a time.
class CheckpointWriter {
 public:
  CheckpointWriter() = default;
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;
  /// Waits for the current checkpoint. An error that no function has thrown is logged.
  ~CheckpointWriter();

  /// Waits for the current checkpoint and starts to write the next one.
  /// @throws FileError of the previous checkpoint
  void start(CheckpointContent content);
  /// Waits for the current checkpoint.
  /// @throws FileError of the current checkpoint, once
  void wait();
  /// Checks the last checkpoint without waiting.
  /// @throws FileError of the last checkpoint if it has failed, once
  void check();

 private:
  std::future<void> in_flight_;
};

}  // namespace internal
}  // namespace diffusers

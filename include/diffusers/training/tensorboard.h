#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include <diffusers/core/tensor.h>

namespace diffusers {

inline namespace internal {
class RecordFile;
}  // namespace internal

/// Writes what TensorBoard shows: `tensorboard --logdir FOLDER`. Corresponds to
/// `torch.utils.tensorboard.SummaryWriter`.
///
/// Each writer opens an event file of its own, `events.out.tfevents.SECONDS.HOST.PROCESS`, whose name sorts
/// after those that are there, and appends whole records to it: what is added can be seen at once, and a
/// crash loses no more than the record that was being written. Tags with slashes, as `loss/train`, are
/// grouped by the part before the first one. One thread at a time.
///
/// Every function throws FileError, with the path and the system's reason, where writing fails (the file then
/// ends with the record before), and ConfigError for a tag that is empty or not UTF-8.
class TensorBoardWriter {
 public:
  /// @param folder is created if it is missing
  /// @param purge_step for a training that goes on after an interruption: TensorBoard leaves out what earlier
  ///        files say of this step and later ones. After a resume from step N, N + 1.
  explicit TensorBoardWriter(const std::filesystem::path& folder,
                             std::optional<int64_t> purge_step = std::nullopt);
  TensorBoardWriter(const TensorBoardWriter&) = delete;
  TensorBoardWriter& operator=(const TensorBoardWriter&) = delete;
  ~TensorBoardWriter();

  /// A point of a curve. The file holds it in single precision; NaN and infinities are shown as such.
  void add_scalar(const std::string& tag, double value, int64_t step);
  /// @param image `[C, H, W]` with C = 1 (gray) or 3 (RGB), on any device; uint8, or floating in [0, 1],
  /// which
  ///        is clamped and rounded as `save_image` does it. A batch: `make_grid(images)`.
  /// @throws TensorError
  void add_image(const std::string& tag, const Tensor& image, int64_t step);
  /// How the values are distributed: 64 bins of equal width from the least to the greatest.
  /// @param values floating, of any shape, not empty, on any device, all finite
  /// @throws TensorError naming the tag
  void add_histogram(const std::string& tag, const Tensor& values, int64_t step);
  /// @param markdown UTF-8. @throws ConfigError if it is not
  void add_text(const std::string& tag, const std::string& markdown, int64_t step);
  /// Brings what was added to the disk, where it survives a power cut.
  void flush();

  /// The event file.
  const std::string& path() const;

 private:
  std::unique_ptr<RecordFile> file_;
};

}  // namespace diffusers

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

/// Writes TensorBoard event files, as `torch.utils.tensorboard.SummaryWriter` does. `tensorboard --logdir
/// FOLDER` shows them.
///
/// Each writer creates its own event file `events.out.tfevents.SECONDS.HOST.PROCESS`, whose name sorts after
/// those of the existing files. It appends complete records: TensorBoard can read them immediately, and a
/// crash loses at most the record being written. TensorBoard groups tags such as `loss/train` by the part
/// before the first slash. A writer is not thread-safe.
///
/// All functions throw FileError, with the path and the system's reason, if writing fails. The file then ends
/// with the previous record. They throw ConfigError for a tag that is empty or not UTF-8.
class TensorBoardWriter {
 public:
  /// Creates an event file.
  /// @param folder created if it is missing
  /// @param purge_step TensorBoard ignores records of earlier files from this step on. Use N + 1 after a
  /// resume
  ///        from step N. None: no records are ignored
  /// @throws FileError if the file cannot be created
  explicit TensorBoardWriter(const std::filesystem::path& folder,
                             std::optional<int64_t> purge_step = std::nullopt);
  TensorBoardWriter(const TensorBoardWriter&) = delete;
  TensorBoardWriter& operator=(const TensorBoardWriter&) = delete;
  /// Closes the file.
  ~TensorBoardWriter();

  /// Adds a point of a curve.
  /// @param tag name of the curve
  /// @param value any number, NaN and Inf included; stored as float32
  /// @param step step of the point
  void add_scalar(const std::string& tag, double value, int64_t step);
  /// Adds an image. `make_grid(images)` makes one image of a batch.
  /// @param tag name of the image
  /// @param image `[C, H, W]` with C = 1 (gray) or 3 (RGB), on any device: uint8, or floating in [0, 1].
  ///        Floating values are clamped and rounded as `save_image` does
  /// @param step step of the image
  /// @throws TensorError for another shape or dtype
  void add_image(const std::string& tag, const Tensor& image, int64_t step);
  /// Adds a histogram of 64 bins of equal width from the smallest value to the largest.
  /// @param tag name of the histogram
  /// @param values floating, any shape, not empty, on any device, all finite
  /// @param step step of the histogram
  /// @throws TensorError naming the tag, for other values
  void add_histogram(const std::string& tag, const Tensor& values, int64_t step);
  /// Adds a text.
  /// @param tag name of the text
  /// @param markdown Markdown in UTF-8
  /// @param step step of the text
  /// @throws ConfigError if the text is not UTF-8
  void add_text(const std::string& tag, const std::string& markdown, int64_t step);
  /// Syncs the file to the disk, where it survives a power failure.
  void flush();

  /// @return path of the event file
  const std::string& path() const;

 private:
  std::unique_ptr<RecordFile> file_;
};

}  // namespace diffusers

#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace diffusers {

inline namespace internal {
class TerminalLine;
}  // namespace internal

/// Where a training stands, at a logging step.
struct TrainingProgress {
  int64_t step = 0;  ///< optimizer steps done
  int64_t total_steps = 0;
  int64_t epoch = 0;               ///< from 0
  double loss = 0.0;               ///< mean over the steps since the last logging step
  double lr = 0.0;                 ///< learning rate of the last step
  double grad_norm = 0.0;          ///< of the last step, before clipping
  double images_per_second = 0.0;  ///< since the last logging step, without previews and checkpoints
  double elapsed_seconds = 0.0;    ///< of this process
  double eta_seconds = 0.0;
  int64_t skipped_steps = 0;  ///< since the training began, because something was not finite
  /// Part of the time since the last logging step in which the training waited for data, 0 to 1.
  double data_wait_share = 0.0;
  /// The most memory used at once: resident memory of the process (`peak_memory_bytes`), or what was
  /// allocated on the CUDA device. 0: not known.
  int64_t memory_bytes = 0;
  /// Named values of the task's loss, such as "kl_loss", mean over the steps since the last logging step; and
  /// "NAME/loss", "NAME/lr" and "NAME/grad_norm" of each update but the first.
  std::vector<std::pair<std::string, double>> values = {};
};

/// The loss on held-out data, with the same examples, noise and timesteps each time.
struct ValidationResult {
  int64_t step = 0;
  double loss = 0.0;               ///< mean over the examples
  std::vector<double> bin_losses;  ///< by the place in the noise schedule, from the least noise to the most
};

/// The most memory that this process had resident at once, in bytes.
int64_t peak_memory_bytes();

/// "3:07" or "1:02:45".
std::string format_duration(double seconds);

/// "820 MiB" or "1.4 GiB".
std::string format_memory(int64_t bytes);

/// "step 50/1000, epoch 0: loss 0.0312, lr 1.00e-04, 81.2 images/s, ETA 1:40, data 3%, 820 MiB".
std::string progress_line(const TrainingProgress& progress);

/// The same on one line of a terminal, behind a bar: " 12% [####....] 120/1000 | loss 0.0312, ...".
/// @param latest what the last logging step said; step 0 for none yet
/// @param step steps done, `latest.step` or more
/// @param columns at most so many characters: the last figures are left out where there is no room
std::string progress_bar(const TrainingProgress& latest, int64_t step, int64_t total_steps,
                         std::size_t columns);

/// Shows progress on standard output: a bar that is redrawn in place on a terminal, a line at each logging
/// step elsewhere.
class ProgressDisplay {
 public:
  /// @param enabled false shows nothing
  ProgressDisplay(bool enabled, int64_t total_steps);
  ProgressDisplay(const ProgressDisplay&) = delete;
  ProgressDisplay& operator=(const ProgressDisplay&) = delete;
  /// Leaves the cursor on a line of its own.
  ~ProgressDisplay();

  /// A step is done; redraws the bar now and then.
  void step_done(int64_t step);
  void show(const TrainingProgress& progress);
  /// Prints a line of its own, above the bar.
  void message(const std::string& text);

 private:
  void draw_bar(int64_t step);

  bool enabled_;
  std::unique_ptr<TerminalLine> line_;  // on standard output
  int64_t total_steps_;
  TrainingProgress latest_;
};

/// What a training did, in two files of its folder: metrics.csv, with a row at each logging step, for
/// spreadsheets, and metrics.jsonl, a JSON object a line, with the validations as well:
///
///     {"step":50,"epoch":0,"loss":0.0312,"lr":0.0001,"grad_norm":0.42,"images_per_second":81.2, ...}
///     {"step":50,"validation_loss":0.029,"validation_bin_losses":[0.11,0.02,0.004]}
///
/// where null stands for what was not finite. A resumed training continues both from the step it resumes at:
/// later rows, and one that a crash cut short, are dropped.
class MetricsLog {
 public:
  /// @param folder exists
  /// @param resumed_step rows of later steps are dropped; 0 starts new files
  /// @throws FileError if a file cannot be read or written
  MetricsLog(const std::filesystem::path& folder, int64_t resumed_step);
  /// @throws FileError
  void append(const TrainingProgress& progress);
  /// @throws FileError
  void append_validation(const ValidationResult& validation);

  /// The logging steps, those before a resume too. Of these, `total_steps` and `eta_seconds` are not kept.
  const std::vector<TrainingProgress>& rows() const { return rows_; }
  const std::vector<ValidationResult>& validations() const { return validations_; }
  /// Of the two files.
  std::vector<std::string> paths() const { return {csv_path_, json_path_}; }
  std::vector<double> steps() const;
  std::vector<double> losses() const;
  /// Draws the loss over the steps. Does nothing before the second row.
  void save_loss_chart(const std::filesystem::path& path) const;

 private:
  void keep(const std::string& line, int64_t resumed_step, std::string& kept);
  void write_csv() const;
  /// Returns whether the row has values that no row before it had.
  bool add_value_names(const TrainingProgress& progress);

  std::string csv_path_;
  std::string json_path_;
  std::vector<std::string> value_names_;  // columns of named values, after the fixed ones
  std::vector<TrainingProgress> rows_;
  std::vector<ValidationResult> validations_;
};

}  // namespace diffusers

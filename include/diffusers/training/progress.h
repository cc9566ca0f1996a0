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

/// Metrics of a training at a logging step.
struct TrainingProgress {
  int64_t step = 0;                ///< optimizer steps done
  int64_t total_steps = 0;         ///< optimizer steps of the whole training
  int64_t epoch = 0;               ///< epoch, from 0
  double loss = 0.0;               ///< mean over the steps since the last logging step
  double lr = 0.0;                 ///< learning rate of the last step
  double grad_norm = 0.0;          ///< gradient norm of the last step, before clipping
  double images_per_second = 0.0;  ///< since the last logging step, without previews and checkpoints
  double elapsed_seconds = 0.0;    ///< time of this process
  double eta_seconds = 0.0;        ///< estimated time to the last step
  int64_t skipped_steps = 0;       ///< steps skipped because of a non-finite value, since the first step
  /// Share of the time since the last logging step in which the training waited for data, 0 to 1.
  double data_wait_share = 0.0;
  /// Peak memory in bytes: allocated on the CUDA device, or resident in the process (`peak_memory_bytes`). 0:
  /// not known.
  int64_t memory_bytes = 0;
  /// Named values of the task's loss, such as "kl_loss": means over the steps since the last logging step.
  /// They also hold "NAME/loss", "NAME/lr" and "NAME/grad_norm" of each update but the first.
  std::vector<std::pair<std::string, double>> values = {};
};

/// Loss on held-out data. All validations use the same samples, noise and timesteps.
struct ValidationResult {
  int64_t step = 0;   ///< optimizer steps done
  double loss = 0.0;  ///< mean over the samples
  /// Mean loss of each part of the noise schedule, from the least noise to the most. NaN for a part without
  /// samples.
  std::vector<double> bin_losses;
  /// Named values of `Task::validate`, such as "psnr": means over the samples.
  std::vector<std::pair<std::string, double>> values = {};
};

/// Returns the peak resident memory of this process.
/// @return bytes; 0: not known
int64_t peak_memory_bytes();

/// Formats a duration, such as "3:07" or "1:02:45".
/// @param seconds duration, 0 or more
/// @return minutes and seconds, with hours from 3600 s on; "?" for a negative or non-finite duration
std::string format_duration(double seconds);

/// Formats an amount of memory, such as "820 MiB" or "1.4 GiB".
/// @param bytes amount, 0 or more
/// @return MiB below 1 GiB, else GiB
std::string format_memory(int64_t bytes);

/// Formats metrics as one line of a log, such as
/// "step 50/1000, epoch 0: loss 0.0312, lr 1.00e-04, 81.2 images/s, ETA 1:40, data 3%, 820 MiB".
/// @param progress metrics
/// @return the line, without a line break
std::string progress_line(const TrainingProgress& progress);

/// Formats a progress bar of a terminal, such as " 12% [####....] 120/1000 | loss 0.0312, ...".
/// @param latest metrics of the last logging step; step 0: none yet
/// @param step optimizer steps done, `latest.step` or more
/// @param total_steps optimizer steps of the whole training
/// @param columns largest number of characters; metrics that do not fit are left out, the last ones first
/// @return the line, without a line break
std::string progress_bar(const TrainingProgress& latest, int64_t step, int64_t total_steps,
                         std::size_t columns);

/// Shows progress on standard output. A terminal gets a bar that is redrawn in place. Any other output gets a
/// line at each logging step.
class ProgressDisplay {
 public:
  /// Starts a display.
  /// @param enabled false shows nothing
  /// @param total_steps optimizer steps of the whole training
  ProgressDisplay(bool enabled, int64_t total_steps);
  ProgressDisplay(const ProgressDisplay&) = delete;
  ProgressDisplay& operator=(const ProgressDisplay&) = delete;
  /// Ends the line of the bar.
  ~ProgressDisplay();

  /// Redraws the bar of a terminal if it was not redrawn recently, and after the last step.
  /// @param step optimizer steps done
  void step_done(int64_t step);
  /// Shows the metrics of a logging step.
  /// @param progress metrics
  void show(const TrainingProgress& progress);
  /// Prints a line above the bar.
  /// @param text the line, without a line break
  void message(const std::string& text);

 private:
  void draw_bar(int64_t step);

  bool enabled_;
  std::unique_ptr<TerminalLine> line_;  // on standard output
  int64_t total_steps_;
  TrainingProgress latest_;
};

/// Writes the metrics of a training into two files of its folder. metrics.csv has a row for each logging
/// step. metrics.jsonl has a JSON object for each logging step and each validation:
///
///     {"step":50,"epoch":0,"loss":0.0312,"lr":0.0001,"grad_norm":0.42,"images_per_second":81.2, ...}
///     {"step":50,"validation_loss":0.029,"validation_bin_losses":[0.11,0.02,0.004],"validation/psnr":21.5}
///
/// The named values of a validation are also in metrics.csv, in columns such as validation/psnr: in the row
/// of the step or, if it is no logging step, in a row whose other cells are empty.
/// A non-finite number is written as null. A resumed training appends to both files. Rows of steps after the
/// resumed one are removed first, and so is a row that a crash cut short.
class MetricsLog {
 public:
  /// Opens the files.
  /// @param folder existing folder
  /// @param resumed_step rows of later steps are removed; 0 starts new files
  /// @throws FileError if a file cannot be read or written
  MetricsLog(const std::filesystem::path& folder, int64_t resumed_step);
  /// Adds a row to both files.
  /// @param progress metrics of a logging step
  /// @throws FileError if a file cannot be written; ConfigError for a named value whose name is empty, has
  ///         characters other than letters, digits, "_", "-", "." and "/", or is the name of another column
  void append(const TrainingProgress& progress);
  /// Adds a row to metrics.jsonl, and the named values to metrics.csv.
  /// @param validation result of a validation
  /// @throws FileError if a file cannot be written; ConfigError for the name of a value, as `append` does
  void append_validation(const ValidationResult& validation);

  /// @return the metrics of all logging steps, those before a resume included. The fields `total_steps` and
  /// `eta_seconds` of rows before a resume are 0
  const std::vector<TrainingProgress>& rows() const { return rows_; }
  /// @return the results of all validations, those before a resume included
  const std::vector<ValidationResult>& validations() const { return validations_; }
  /// @return paths of metrics.csv and metrics.jsonl
  std::vector<std::string> paths() const { return {csv_path_, json_path_}; }
  /// @return the step of each row
  std::vector<double> steps() const;
  /// @return the loss of each row
  std::vector<double> losses() const;
  /// Writes a chart of the loss over the steps. It does nothing before the second row.
  /// @param path SVG file
  /// @throws FileError if the file cannot be written
  void save_loss_chart(const std::filesystem::path& path) const;

 private:
  void keep(const std::string& line, int64_t resumed_step, std::string& kept);
  void write_csv() const;
  std::string csv_header() const;
  /// @param validation of the same step; null: none
  std::string csv_row(const TrainingProgress& progress, const ValidationResult* validation) const;
  /// @return the row of a validation that is at no logging step; empty if it has no named values
  std::string csv_row(const ValidationResult& validation) const;

  std::string csv_path_;
  std::string json_path_;
  std::vector<std::string> value_names_;       // columns of named values, after the fixed ones
  std::vector<std::string> validation_names_;  // columns of a validation's named values, the last ones
  std::vector<TrainingProgress> rows_;
  std::vector<ValidationResult> validations_;
};

}  // namespace diffusers

#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace diffusers {

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
};

/// "3:07" or "1:02:45".
std::string format_duration(double seconds);

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
  void end_bar();

  bool enabled_;
  bool is_terminal_;
  bool bar_is_drawn_ = false;
  int64_t total_steps_;
  double last_drawn_ = 0.0;  // seconds of the steady clock
  TrainingProgress latest_;
};

/// metrics.csv: a row at each logging step. A resumed training continues the file from the step it resumes
/// at.
class MetricsLog {
 public:
  /// @param resumed_step rows of later steps are dropped; 0 starts a new file
  /// @throws FileError if the file cannot be written
  MetricsLog(std::string path, int64_t resumed_step);
  void append(const TrainingProgress& progress);
  const std::vector<double>& steps() const { return steps_; }
  const std::vector<double>& losses() const { return losses_; }
  /// Draws the loss over the steps. Does nothing before the second row.
  void save_loss_chart(const std::string& path) const;

 private:
  std::string path_;
  std::vector<double> steps_;
  std::vector<double> losses_;
};

}  // namespace diffusers

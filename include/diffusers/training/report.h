#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <diffusers/training/progress.h>

namespace diffusers {

/// A label and a value of a report's summary, such as "Device" and "cuda:0".
struct ReportFigure {
  std::string label;
  std::string value;
};

/// A picture of a report: a PNG file that is drawn into it.
struct ReportGrid {
  int64_t step = 0;
  std::string path;
  std::string name = {};
};

/// What a report tells. What is empty is left out of it.
struct TrainingReport {
  std::string title = "Training";
  /// Shown before those that the rows give: steps, epochs, losses, time, images/s, memory.
  std::vector<ReportFigure> figures = {};
  std::vector<TrainingProgress> rows = {};         ///< `MetricsLog::rows()`, in the order of their steps
  std::vector<ValidationResult> validations = {};  ///< `MetricsLog::validations()`
  std::vector<ReportGrid> grids = {};              ///< in the order of their steps
  int64_t max_grids = 24;  ///< of more, so many are shown, evenly spread, the first and the last among them
  std::string config_json = {};  ///< a JSON object, such as `TrainingConfig::to_json()`; nested ones are fine
};

/// The report as the text of an HTML file that needs nothing else: no script, no other file, no network. It
/// is light or dark as the reader's system is. Curves of many points are drawn through means of neighbours.
///
/// The charts are `<svg>` elements with the ids `chart-loss`, `chart-learning-rate`, `chart-gradient-norm`,
/// `chart-images-per-second`, `chart-timestep-bins` and `chart-timestep-bins-over-steps`.
/// @throws FileError if a picture cannot be read, is no PNG file, or `config_json` is no JSON; ConfigError if
///         that is no object or `max_grids` is less than 1
std::string training_report_html(const TrainingReport& report);

/// Writes the report, completely or not at all.
/// @param path ends with ".html"
/// @throws as `training_report_html`; FileError if the file cannot be written
void save_training_report(const TrainingReport& report, const std::filesystem::path& path);

/// The files `NAME-STEP.png` of a folder, by step and then name, as the Trainer writes them to previews/.
/// @param last_step files of later steps are left out
/// @return empty if there is no such folder
std::vector<ReportGrid> find_report_grids(const std::filesystem::path& folder, int64_t last_step);

}  // namespace diffusers

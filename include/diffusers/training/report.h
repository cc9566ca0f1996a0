#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <diffusers/training/progress.h>

namespace diffusers {

/// An entry of a report's summary, such as "Device" and "cuda:0".
struct ReportFigure {
  std::string label;  ///< name of the entry
  std::string value;  ///< its value, as text
};

/// An image of a report, such as a grid of samples. The report contains a copy of the PNG file.
struct ReportGrid {
  int64_t step = 0;       ///< optimizer steps done when it was made
  std::string path;       ///< PNG file
  std::string name = {};  ///< shown in its caption before the step; empty: only the step is shown
};

/// Content of a report. The report has no section for a field that is empty.
struct TrainingReport {
  std::string title = "Training";  ///< title of the page
  /// First entries of the summary. Steps, epochs, losses, time, images/s and memory follow, from `rows`.
  std::vector<ReportFigure> figures = {};
  std::vector<TrainingProgress> rows = {};         ///< `MetricsLog::rows()`, by ascending step
  std::vector<ValidationResult> validations = {};  ///< `MetricsLog::validations()`, by ascending step
  std::vector<ReportGrid> grids = {};              ///< images, by ascending step
  /// Maximum number of images, 1 or more. If there are more, the report shows an evenly spaced selection that
  /// includes the first and the last one.
  int64_t max_grids = 24;
  std::string config_json = {};  ///< JSON object, such as `TrainingConfig::to_json()`; it may be nested
};

/// Makes a report as an HTML page. The page contains all of its images and charts, has no script and loads
/// nothing. It follows the light or dark mode of the browser. A curve of many points is drawn through the
/// means of neighbouring points.
///
/// The charts are `<svg>` elements with the ids `chart-loss`, `chart-learning-rate`, `chart-gradient-norm`,
/// `chart-images-per-second`, `chart-timestep-bins` and `chart-timestep-bins-over-steps`.
/// @param report content of the report
/// @return text of the page
/// @throws FileError if an image cannot be read or is not a PNG file, or if `config_json` is not JSON
/// @throws ConfigError if `config_json` is not an object, or if `max_grids` is less than 1
std::string training_report_html(const TrainingReport& report);

/// Writes a report atomically.
/// @param report content of the report
/// @param path file whose name ends with ".html"
/// @throws FileError for another name, or if the file cannot be written; otherwise as `training_report_html`
void save_training_report(const TrainingReport& report, const std::filesystem::path& path);

/// Lists the files `NAME-STEP.png` of a folder, as the Trainer writes them to `previews/`.
/// @param folder folder of the images
/// @param last_step files of later steps are left out
/// @return the images by step, then by name; empty if there is no such folder
std::vector<ReportGrid> find_report_grids(const std::filesystem::path& folder, int64_t last_step);

}  // namespace diffusers

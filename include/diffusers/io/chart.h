#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace diffusers {

/// One line of a chart. A point that is not finite interrupts the line, and so does a point that is not
/// positive on a logarithmic axis.
struct ChartSeries {
  /// Name in the legend. Empty adds no entry.
  std::string name = {};
  /// Values.
  std::vector<double> y = {};
  /// Positions, one for each value. Empty stands for 0, 1, 2, ...
  std::vector<double> x = {};
  /// Any SVG colour. Empty takes the next one of a palette that colour-blind readers can tell apart.
  std::string color = {};
};

/// Options of `line_chart_svg` and `save_line_chart`.
struct ChartOptions {
  /// Title above the chart. Empty shows none.
  std::string title = {};
  /// Label of the horizontal axis. Empty shows none.
  std::string x_label = {};
  /// Label of the vertical axis. Empty shows none.
  std::string y_label = {};
  /// Makes the vertical axis logarithmic.
  bool log_y = false;
  /// Width in pixels, in [160, 16384].
  int width = 720;
  /// Height in pixels, in [120, 16384].
  int height = 440;
};

/// Draws a line chart.
/// @param series lines of the chart, drawn in this order
/// @return the text of an SVG file
/// @throws ConfigError if the size is out of range, or if a series has another number of positions than of
///   values
std::string line_chart_svg(const std::vector<ChartSeries>& series, const ChartOptions& options = {});

/// Writes a line chart, such as a loss curve, as an SVG file, completely or not at all.
/// @param series lines of the chart, drawn in this order
/// @param path name of the file, which ends with ".svg"
/// @throws ConfigError as `line_chart_svg`; FileError for another ending, or if the file cannot be written
void save_line_chart(const std::vector<ChartSeries>& series, const std::filesystem::path& path,
                     const ChartOptions& options = {});

}  // namespace diffusers

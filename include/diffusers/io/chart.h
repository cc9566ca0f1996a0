#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace diffusers {

/// One line of a chart. A non-finite point interrupts the line. So does a point that is not positive on a
/// logarithmic axis.
struct ChartSeries {
  /// Name in the legend. Empty adds no entry.
  std::string name = {};
  /// Vertical positions.
  std::vector<double> y = {};
  /// Horizontal positions, one for each value. Empty stands for 0, 1, 2, ...
  std::vector<double> x = {};
  /// Any SVG colour. Empty takes the next colour of a palette that is safe for colour-blind readers.
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
/// @param options labels and size
/// @return the text of an SVG file
/// @throws ConfigError if the size is out of range, or if the number of `x` differs from the number of `y` in
///   a series
std::string line_chart_svg(const std::vector<ChartSeries>& series, const ChartOptions& options = {});

/// Writes a line chart, such as a loss curve, as an SVG file. The file is replaced atomically.
/// @param series lines of the chart, drawn in this order
/// @param path path of the file, which must end with ".svg"
/// @param options labels and size
/// @throws ConfigError as `line_chart_svg`; FileError if the path does not end with ".svg" or the file cannot
///   be written
void save_line_chart(const std::vector<ChartSeries>& series, const std::filesystem::path& path,
                     const ChartOptions& options = {});

}  // namespace diffusers

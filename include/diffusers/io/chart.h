#pragma once

#include <string>
#include <vector>

namespace diffusers {

/// One line of a chart. Points that are not finite (or not positive on a logarithmic axis) interrupt it.
struct ChartSeries {
  std::string name = {};       ///< shown in the legend; empty for no entry
  std::vector<double> y = {};  ///< values
  std::vector<double> x = {};  ///< positions, as many as values; empty for 0, 1, 2, ...
  /// Any SVG colour; empty for the next of a palette that colour-blind readers can tell apart.
  std::string color = {};
};

struct ChartOptions {
  std::string title = {};
  std::string x_label = {};
  std::string y_label = {};
  bool log_y = false;
  int width = 720;  ///< pixels
  int height = 440;
};

/// The chart as the text of an SVG file.
/// @throws ConfigError for sizes that cannot work
std::string line_chart_svg(const std::vector<ChartSeries>& series, const ChartOptions& options = {});

/// Writes a line chart, such as a loss curve, as an SVG file that any browser shows.
/// @param path ends with ".svg"
void save_line_chart(const std::string& path, const std::vector<ChartSeries>& series,
                     const ChartOptions& options = {});

}  // namespace diffusers

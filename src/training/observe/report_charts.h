#pragma once

// The charts of a report: SVG text of io/chart.h, in a page whose style sheet sets the colours.

#include <string>
#include <string_view>
#include <vector>

#include <diffusers/io/chart.h>

#include "core/require.h"

namespace diffusers {
inline namespace internal {

/// Escapes text for HTML elements and quoted attributes. Bytes that are not UTF-8 become U+FFFD, and control
/// characters become spaces.
std::string html_text(std::string_view text);

/// Merges neighbouring points until there are at most `max_points`. A merged point has the mean position and
/// the mean of the finite values.
ChartSeries thinned(const ChartSeries& series, std::size_t max_points);

/// Returns the colour of a bin, from blue (0) to red (n - 1). All colours are visible on light and dark
/// pages.
std::string color_of_bin(std::size_t bin, std::size_t bins);

/// Makes a line chart as a `<figure>` with a caption. The y axis is logarithmic if `log_y` is true and all
/// finite values are positive.
/// @param legend HTML below the chart
std::string line_figure(std::string_view id, std::string_view caption, std::string_view y_label,
                        std::vector<ChartSeries> series, bool log_y, std::string_view legend = "");

/// Makes a bar chart as a `<figure>` with a caption. The bars have the colours of `color_of_bin`.
/// @param labels labels of the bars
std::string bar_figure(std::string_view id, std::string_view caption, std::string_view x_label,
                       std::string_view y_label, const std::vector<double>& values,
                       const std::vector<std::string>& labels);

}  // namespace internal
}  // namespace diffusers

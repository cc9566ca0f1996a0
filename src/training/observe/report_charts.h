#pragma once

// The charts of a report: the SVG text of io/chart.h, made part of a page whose style sheet colours it.

#include <string>
#include <string_view>
#include <vector>

#include <diffusers/io/chart.h>

#include "core/require.h"

namespace diffusers {
inline namespace internal {

/// Text as HTML shows it, in elements and quoted attributes. What is not UTF-8 becomes U+FFFD, control
/// characters become spaces.
std::string html_text(std::string_view text);

/// Takes neighbours together until there are at most `max_points`: their mean position and the mean of those
/// of their values that are finite.
ChartSeries thinned(const ChartSeries& series, std::size_t max_points);

/// `color_of_bin(0, n)` is blue, `color_of_bin(n - 1, n)` red; all are told from light and dark pages.
std::string color_of_bin(std::size_t bin, std::size_t bins);

/// A line chart as a `<figure>` with a caption. The y axis is logarithmic if all finite values are positive
/// and `log_y` asks for it.
/// @param legend HTML that stands below the chart
std::string line_figure(std::string_view id, std::string_view caption, std::string_view y_label,
                        std::vector<ChartSeries> series, bool log_y, std::string_view legend = "");

/// A bar for each value, in the colours of `color_of_bin`, as a `<figure>` with a caption.
/// @param labels of the bars
std::string bar_figure(std::string_view id, std::string_view caption, std::string_view x_label,
                       std::string_view y_label, const std::vector<double>& values,
                       const std::vector<std::string>& labels);

}  // namespace internal
}  // namespace diffusers

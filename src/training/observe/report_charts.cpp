#include "training/observe/report_charts.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "io/markup.h"
#include "text/unicode.h"

namespace diffusers {
inline namespace internal {
namespace {

constexpr int kChartWidth = 560;
constexpr int kChartHeight = 300;
constexpr std::size_t kMostBarLabels = 10;

std::string figure_of(std::string_view id, std::string_view caption, std::string_view svg_after_name,
                      std::string_view below = "") {
  return fmt::format(
      "<figure>\n<figcaption>{1}</figcaption>\n<svg id=\"{0}\" role=\"img\" "
      "aria-label=\"{1}\"{2}{3}</figure>\n",
      html_text(id), html_text(caption), svg_after_name, below);
}

bool has_finite_value(const ChartSeries& line) {
  return std::any_of(line.y.begin(), line.y.end(), [](double value) { return std::isfinite(value); });
}

bool is_never_below_zero(const ChartSeries& line) {
  return std::none_of(line.y.begin(), line.y.end(), [](double value) { return value <= 0; });
}

}  // namespace

std::string html_text(std::string_view text) { return xml_text(text::replace_invalid_utf8(text)); }

ChartSeries thinned(const ChartSeries& series, std::size_t max_points) {
  const std::size_t count = series.y.size();
  if (count <= max_points) return series;
  const std::size_t group = (count + max_points - 1) / max_points;
  ChartSeries out{series.name, {}, {}, series.color};
  for (std::size_t first = 0; first < count; first += group) {
    const std::size_t end = std::min(count, first + group);
    double sum = 0;
    double position = 0;
    double finite = 0;
    for (std::size_t i = first; i < end; ++i) {
      position += series.x.empty() ? static_cast<double>(i) : series.x[i];
      if (!std::isfinite(series.y[i])) continue;
      sum += series.y[i];
      ++finite;
    }
    out.x.push_back(position / static_cast<double>(end - first));
    out.y.push_back(sum / finite);  // NaN if no value is finite, which interrupts the line
  }
  return out;
}

std::string color_of_bin(std::size_t bin, std::size_t bins) {
  constexpr std::array<std::array<double, 3>, 3> kStops{{{40, 125, 200}, {155, 95, 170}, {215, 95, 20}}};
  const double place = bins < 2 ? 0 : 2 * static_cast<double>(bin) / static_cast<double>(bins - 1);
  const std::size_t stop = place < 1 ? 0 : 1;
  const double share = place - static_cast<double>(stop);
  std::string color = "#";
  for (std::size_t i = 0; i < 3; ++i)
    color += fmt::format("{:02x}", std::lround(kStops[stop][i] * (1 - share) + kStops[stop + 1][i] * share));
  return color;
}

std::string line_figure(std::string_view id, std::string_view caption, std::string_view y_label,
                        std::vector<ChartSeries> series, bool log_y, std::string_view legend) {
  std::erase_if(series, [](const ChartSeries& line) { return !has_finite_value(line); });
  ChartOptions options;
  options.x_label = "step";
  options.y_label = std::string(y_label);
  options.log_y = log_y && std::all_of(series.begin(), series.end(), is_never_below_zero);
  options.width = kChartWidth;
  options.height = kChartHeight;
  const std::string svg = line_chart_svg(series, options);
  // An <svg> in HTML needs no name space, so the id replaces the attributes before the width.
  return figure_of(id, caption, svg.substr(svg.find(" width=")), legend);
}

std::string bar_figure(std::string_view id, std::string_view caption, std::string_view x_label,
                       std::string_view y_label, const std::vector<double>& values,
                       const std::vector<std::string>& labels) {
  double highest = 0;
  for (const double value : values)
    if (std::isfinite(value)) highest = std::max(highest, value);
  if (highest == 0) highest = 1;
  constexpr double kLeft = 40, kRight = kChartWidth - 16, kTop = 28, kBottom = kChartHeight - 54;
  const double slot = (kRight - kLeft) / static_cast<double>(values.size());
  const std::size_t stride = (values.size() + kMostBarLabels - 1) / kMostBarLabels;
  std::string svg = fmt::format(
      " width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" font-family=\"sans-serif\" font-size=\"12\" "
      "fill=\"#333333\">\n",
      kChartWidth, kChartHeight);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double left = kLeft + slot * static_cast<double>(i);
    const double middle = left + slot / 2;
    const bool is_finite = std::isfinite(values[i]);
    const double top = kBottom - (is_finite ? std::max(0.0, values[i]) / highest : 0) * (kBottom - kTop);
    const std::string value = is_finite ? fmt::format("{:.2g}", values[i]) : "none";
    if (is_finite)
      svg += fmt::format(
          "<path d=\"M{:.1f} {:.1f}V{:.1f}H{:.1f}V{:.1f}Z\" fill=\"{}\"><title>{}: {}</title></path>\n",
          left + 0.1 * slot, kBottom, top, left + 0.9 * slot, kBottom, color_of_bin(i, values.size()),
          html_text(labels[i]), value);
    if (i % stride != 0) continue;
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n", middle, top - 6,
                       value);
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n", middle,
                       kBottom + 18, html_text(labels[i]));
  }
  svg += fmt::format("<path d=\"M{:.1f} {:.1f}H{:.1f}\" fill=\"none\" stroke=\"#333333\"/>\n", kLeft, kBottom,
                     kRight);
  svg += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", (kLeft + kRight) / 2,
                     kChartHeight - 12, html_text(x_label));
  svg += fmt::format(
      "<text transform=\"translate(18 {:.1f}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n</svg>\n",
      (kTop + kBottom) / 2, html_text(y_label));
  return figure_of(id, caption, svg);
}

}  // namespace internal
}  // namespace diffusers

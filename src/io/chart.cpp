#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string_view>

#include <diffusers/io/chart.h>
#include <diffusers/io/files.h>

#include "core/require.h"
#include "io/markup.h"
#include "io/posix_file.h"

namespace diffusers {
namespace {

// Okabe and Ito's palette.
constexpr std::array<std::string_view, 7> kPalette{"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                                   "#e69f00", "#56b4e9", "#444444"};

/// Range, ticks and labels of an axis.
struct Axis {
  double low = 0;
  double high = 1;
  bool is_log = false;
  std::vector<double> ticks;

  double place(double value) const {
    if (is_log) return (std::log10(value) - std::log10(low)) / (std::log10(high) - std::log10(low));
    return (value - low) / (high - low);
  }
};

/// Steps of 1, 2 or 5 times a power of ten.
Axis linear_axis(double low, double high, bool round_outwards) {
  if (!(high > low)) {
    const double room = low == 0 ? 1 : std::abs(low) * 0.1;
    low -= room;
    high += room;
  }
  const double rough = (high - low) / 6;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  const double step = (rough / power < 1.5   ? 1
                       : rough / power < 3.5 ? 2
                       : rough / power < 7.5 ? 5
                                             : 10) *
                      power;
  Axis axis{low, high, false, {}};
  if (round_outwards) {
    axis.low = std::floor(low / step + 1e-9) * step;
    axis.high = std::ceil(high / step - 1e-9) * step;
  }
  const double first = std::ceil(axis.low / step - 1e-9);
  for (int i = 0; i < 20; ++i) {
    const double tick = (first + i) * step;
    if (tick > axis.high + step * 1e-9) break;
    axis.ticks.push_back(std::abs(tick) < step * 1e-9 ? 0 : tick);
  }
  return axis;
}

Axis log_axis(double low, double high) {
  const double first = std::floor(std::log10(low) + 1e-9);
  const double last = std::max(std::ceil(std::log10(high) - 1e-9), first + 1);
  Axis axis{std::pow(10, first), std::pow(10, last), true, {}};
  const double stride = std::max(1.0, std::ceil((last - first) / 10));
  for (double decade = first; decade <= last; decade += stride) {
    axis.ticks.push_back(std::pow(10, decade));
    if (last - first > 2 || decade == last) continue;
    axis.ticks.push_back(2 * axis.ticks.back());
    axis.ticks.push_back(2.5 * axis.ticks.back());
  }
  return axis;
}

bool can_show(double x, double y, bool log_y) {
  return std::isfinite(x) && std::isfinite(y) && (!log_y || y > 0);
}

double position_of(const ChartSeries& line, std::size_t i) {
  return line.x.empty() ? static_cast<double>(i) : line.x[i];
}

}  // namespace

std::string line_chart_svg(const std::vector<ChartSeries>& series, const ChartOptions& options) {
  require<ConfigError>(
      options.width >= 160 && options.height >= 120 && options.width <= 16384 && options.height <= 16384,
      "a chart of {} x {} pixels, expected 160 x 120 to 16384 x 16384", options.width, options.height);
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  double x_low = kInfinity, x_high = -kInfinity, y_low = kInfinity, y_high = -kInfinity;
  for (const auto& line : series) {
    require<ConfigError>(line.x.empty() || line.x.size() == line.y.size(),
                         "series {} has {} positions for {} values", escaped(line.name), line.x.size(),
                         line.y.size());
    for (std::size_t i = 0; i < line.y.size(); ++i) {
      const double x = position_of(line, i);
      if (!can_show(x, line.y[i], options.log_y)) continue;
      x_low = std::min(x_low, x);
      x_high = std::max(x_high, x);
      y_low = std::min(y_low, line.y[i]);
      y_high = std::max(y_high, line.y[i]);
    }
  }
  if (x_low > x_high) {
    x_low = 0;
    x_high = 1;
    y_low = options.log_y ? 0.1 : 0;
    y_high = 1;
  }
  const Axis x_axis = linear_axis(x_low, x_high, false);
  const Axis y_axis = options.log_y ? log_axis(y_low, y_high) : linear_axis(y_low, y_high, true);

  std::vector<std::string> labels;
  std::size_t longest = 0;
  for (const double tick : y_axis.ticks) {
    labels.push_back(fmt::format("{:.6g}", tick));
    longest = std::max(longest, labels.back().size());
  }
  const double left = 24 + 7.0 * static_cast<double>(longest) + (options.y_label.empty() ? 0 : 20);
  const double right = options.width - 20;
  const double top = options.title.empty() ? 20 : 44;
  const double bottom = options.height - (options.x_label.empty() ? 34 : 54);
  const auto to_x = [&](double value) { return left + x_axis.place(value) * (right - left); };
  const auto to_y = [&](double value) { return bottom - y_axis.place(value) * (bottom - top); };

  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" "
      "font-family=\"sans-serif\" font-size=\"12\" fill=\"#333333\">\n<rect width=\"{0}\" height=\"{1}\" "
      "fill=\"white\"/>\n",
      options.width, options.height);
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const double y = to_y(y_axis.ticks[i]);
    svg += fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"#e3e3e3\"/>\n",
                       left, y, right, y);
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n", left - 8, y + 4,
                       labels[i]);
  }
  for (const double tick : x_axis.ticks) {
    const double x = to_x(tick);
    svg += fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"#e3e3e3\"/>\n",
                       x, top, x, bottom);
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{:.6g}</text>\n", x,
                       bottom + 18, tick);
  }
  svg += fmt::format("<path d=\"M{:.1f} {:.1f}V{:.1f}H{:.1f}\" fill=\"none\" stroke=\"#333333\"/>\n", left,
                     top, bottom, right);

  double legend_y = top + 14;
  for (std::size_t s = 0; s < series.size(); ++s) {
    const auto& line = series[s];
    const std::string color =
        xml_text(line.color.empty() ? kPalette[s % kPalette.size()] : std::string_view(line.color));
    std::string path;
    bool is_open = false;
    std::size_t points = 0;
    for (std::size_t i = 0; i < line.y.size(); ++i) {
      const double x = position_of(line, i);
      const bool is_shown = can_show(x, line.y[i], options.log_y);
      if (is_shown) path += fmt::format("{}{:.1f} {:.1f}", is_open ? "L" : "M", to_x(x), to_y(line.y[i]));
      is_open = is_shown;
      points += is_shown ? 1 : 0;
    }
    if (points == 1) path += "h0.1";  // with round caps, a dot
    if (points > 0)
      svg += fmt::format(
          "<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{}\" stroke-linejoin=\"round\" "
          "stroke-linecap=\"round\"/>\n",
          path, color, points == 1 ? 5 : 1.8);
    if (line.name.empty()) continue;
    svg += fmt::format("<path d=\"M{:.1f} {:.1f}h22\" stroke=\"{}\" stroke-width=\"3\"/>\n", right - 32,
                       legend_y, color);
    svg += fmt::format(
        "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\" paint-order=\"stroke\" stroke=\"white\" "
        "stroke-width=\"3\">{}</text>\n",
        right - 40, legend_y + 4, xml_text(line.name));
    legend_y += 18;
  }

  const double middle = (left + right) / 2;
  if (!options.title.empty())
    svg += fmt::format("<text x=\"{:.1f}\" y=\"26\" text-anchor=\"middle\" font-size=\"16\">{}</text>\n",
                       middle, xml_text(options.title));
  if (!options.x_label.empty())
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", middle,
                       options.height - 12, xml_text(options.x_label));
  if (!options.y_label.empty())
    svg +=
        fmt::format("<text transform=\"translate(18 {:.1f}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
                    (top + bottom) / 2, xml_text(options.y_label));
  return svg + "</svg>\n";
}

void save_line_chart(const std::vector<ChartSeries>& series, const std::filesystem::path& path,
                     const ChartOptions& options) {
  require<FileError>(path.native().ends_with(".svg"),
                     "{}: charts are written as SVG, expected a name that ends with .svg",
                     escaped(path.native()));
  write_file(line_chart_svg(series, options), path);
}

}  // namespace diffusers

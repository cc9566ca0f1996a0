#include <algorithm>
#include <charconv>
#include <cmath>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/io/files.h>
#include <diffusers/training/report.h>

#include "core/json.h"
#include "core/require.h"
#include "io/image_codec.h"
#include "io/posix_file.h"
#include "training/observe/report_charts.h"

namespace diffusers {
namespace {

constexpr std::size_t kMaxCurvePoints = 1000;
constexpr std::string_view kTrainColor = "#0072b2";
constexpr std::string_view kValidationColor = "#d55e00";

// The charts have colours for paper. These rules replace them with the colours of the page.
constexpr std::string_view kStyle = R"css(
:root{color-scheme:light dark;--page:#f6f7f9;--panel:#fff;--ink:#1f2328;--soft:#667078;--grid:#e6e8eb;
--axis:#9aa3ab;--train:#0072b2;--validation:#d55e00}
@media(prefers-color-scheme:dark){:root{--page:#14171a;--panel:#1d2125;--ink:#e6e9ec;--soft:#9aa3ab;
--grid:#30363c;--axis:#6a737b;--train:#58b0e8;--validation:#ff8f45}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:32px 20px 64px}
h1{font-size:28px;margin:0 0 20px;overflow-wrap:anywhere}
h2{font-size:19px;margin:40px 0 12px}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:12px;margin:0}
dl div,figure,table{background:var(--panel);border:1px solid var(--grid);border-radius:10px}
dl div{padding:10px 14px}
dt,figcaption,.note{color:var(--soft);font-size:13px}
dd{margin:0;font-size:18px;font-weight:600;overflow-wrap:anywhere}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(480px,100%),1fr));gap:16px}
.grids{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(260px,100%),1fr));gap:16px}
figure{margin:0;padding:12px}
figcaption{margin-bottom:6px}
svg{display:block;width:100%;height:auto;fill:var(--ink)}
svg>rect{fill:none}
svg line{stroke:var(--grid)}
svg text[stroke]{stroke:var(--panel)}
svg path[stroke="#333333"]{stroke:var(--axis)}
svg path[stroke="#0072b2"]{stroke:var(--train)}
svg path[stroke="#d55e00"]{stroke:var(--validation)}
img{display:block;width:100%;height:auto;border-radius:6px}
.legend{display:flex;flex-wrap:wrap;gap:4px 14px;color:var(--soft);font-size:13px;margin-top:6px}
.legend i{display:inline-block;width:14px;height:4px;border-radius:2px;margin-right:5px;vertical-align:middle}
table{border-collapse:separate;border-spacing:0;width:100%;overflow:hidden}
th,td{text-align:left;padding:5px 14px;border-bottom:1px solid var(--grid);vertical-align:top;font-size:14px}
tr:last-child>*{border-bottom:0}
th{font-weight:500;width:38%}
td{font-family:ui-monospace,monospace;overflow-wrap:anywhere}
)css";

std::string section(std::string_view id, std::string_view title, std::string_view content) {
  return fmt::format("<section id=\"{}\">\n<h2>{}</h2>\n{}</section>\n", id, title, content);
}

/// Returns the total time in seconds of all processes of the training, each of which counts from zero.
double total_seconds(const std::vector<TrainingProgress>& rows) {
  double total = 0;
  double before = 0;
  for (const TrainingProgress& row : rows) {
    total += row.elapsed_seconds >= before ? row.elapsed_seconds - before : row.elapsed_seconds;
    before = row.elapsed_seconds;
  }
  return total;
}

template <class Field>
std::vector<double> column(const std::vector<TrainingProgress>& rows, Field field) {
  std::vector<double> values;
  for (const TrainingProgress& row : rows) values.push_back(static_cast<double>(row.*field));
  return values;
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

std::vector<ReportFigure> summary_figures(const TrainingReport& report) {
  std::vector<ReportFigure> figures = report.figures;
  if (!report.rows.empty()) {
    const TrainingProgress& last = report.rows.back();
    figures.push_back({"Steps", fmt::format("{}", last.step)});
    figures.push_back({"Epochs begun", fmt::format("{}", last.epoch + 1)});
    figures.push_back({"Training loss", fmt::format("{:.4g}", last.loss)});
  }
  if (!report.validations.empty()) {
    figures.push_back({"Validation loss", fmt::format("{:.4g}", report.validations.back().loss)});
    const auto least =
        std::min_element(report.validations.begin(), report.validations.end(),
                         [](const ValidationResult& a, const ValidationResult& b) {
                           return a.loss < b.loss || (std::isnan(b.loss) && !std::isnan(a.loss));
                         });
    figures.push_back({"Least validation loss", fmt::format("{:.4g} at step {}", least->loss, least->step)});
    for (const auto& [name, value] : report.validations.back().values)
      figures.push_back({"Validation " + name, fmt::format("{:.4g}", value)});
  }
  if (!report.rows.empty()) {
    const TrainingProgress& last = report.rows.back();
    const std::vector<double> rates = column(report.rows, &TrainingProgress::images_per_second);
    const std::vector<double> memory = column(report.rows, &TrainingProgress::memory_bytes);
    const std::vector<double> waits = column(report.rows, &TrainingProgress::data_wait_share);
    figures.push_back({"Time", format_duration(total_seconds(report.rows))});
    figures.push_back({"Images/s (median)", fmt::format("{:.1f}", median(rates))});
    figures.push_back({"Data wait (median)", fmt::format("{:.0f}%", 100 * median(waits))});
    const auto most = static_cast<int64_t>(*std::max_element(memory.begin(), memory.end()));
    if (most > 0) figures.push_back({"Memory, at most", format_memory(most)});
    if (last.skipped_steps > 0) figures.push_back({"Skipped steps", fmt::format("{}", last.skipped_steps)});
  }
  return figures;
}

std::string summary(const TrainingReport& report) {
  std::string html = "<dl id=\"summary\">\n";
  for (const ReportFigure& figure : summary_figures(report))
    html +=
        fmt::format("<div><dt>{}</dt><dd>{}</dd></div>\n", html_text(figure.label), html_text(figure.value));
  return html + "</dl>\n";
}

ChartSeries curve(const TrainingReport& report, double TrainingProgress::*field, std::string name) {
  return thinned({std::move(name), column(report.rows, field), column(report.rows, &TrainingProgress::step),
                  std::string(kTrainColor)},
                 kMaxCurvePoints);
}

/// Adds the names of the named values of rows or validations, in the order of their first rows.
template <class Row>
void add_value_names(const std::vector<Row>& rows, std::vector<std::string>& names) {
  for (const Row& row : rows)
    for (const auto& entry : row.values)
      if (std::find(names.begin(), names.end(), entry.first) == names.end()) names.push_back(entry.first);
}

/// Returns the curve of a named value over the rows or validations that have it.
template <class Row>
ChartSeries value_curve(const std::vector<Row>& rows, const std::string& name, std::string_view color) {
  ChartSeries line{"", {}, {}, std::string(color)};
  for (const Row& row : rows) {
    for (const auto& [own_name, value] : row.values) {
      if (own_name != name) continue;
      line.x.push_back(static_cast<double>(row.step));
      line.y.push_back(value);
    }
  }
  return thinned(line, kMaxCurvePoints);
}

/// Returns a chart for each named value of the training and of its validations.
std::string value_figures(const TrainingReport& report) {
  std::vector<std::string> names;
  add_value_names(report.rows, names);
  add_value_names(report.validations, names);
  std::string html;
  for (std::size_t i = 0; i < names.size(); ++i) {
    ChartSeries training = value_curve(report.rows, names[i], kTrainColor);
    ChartSeries validation = value_curve(report.validations, names[i], kValidationColor);
    const bool has_both = !training.x.empty() && !validation.x.empty();
    if (has_both) {
      training.name = "training";
      validation.name = "validation";
    }
    const std::string title = training.x.empty() ? "Validation: " + names[i] : names[i];
    html += line_figure(fmt::format("chart-value-{}", i), html_text(title), "value", {training, validation},
                        false);
  }
  return html;
}

std::vector<double> validation_steps(const TrainingReport& report) {
  std::vector<double> steps;
  for (const ValidationResult& validation : report.validations)
    steps.push_back(static_cast<double>(validation.step));
  return steps;
}

std::string curves(const TrainingReport& report) {
  if (report.rows.empty() && report.validations.empty()) return "";
  ChartSeries validation{"validation", {}, validation_steps(report), std::string(kValidationColor)};
  for (const ValidationResult& result : report.validations) validation.y.push_back(result.loss);
  const bool is_alone = report.validations.empty();
  std::string html = "<div class=\"charts\">\n";
  html += line_figure("chart-loss", is_alone ? "Training loss" : "Training and validation loss", "loss",
                      {curve(report, &TrainingProgress::loss, is_alone ? "" : "training"),
                       thinned(validation, kMaxCurvePoints)},
                      /*log_y=*/true);
  if (!report.rows.empty()) {
    html += line_figure("chart-learning-rate", "Learning rate", "learning rate",
                        {curve(report, &TrainingProgress::lr, "")}, false);
    html += line_figure("chart-gradient-norm", "Norm of the gradient, before clipping", "norm",
                        {curve(report, &TrainingProgress::grad_norm, "")}, true);
    html += line_figure("chart-images-per-second", "Images per second", "images/s",
                        {curve(report, &TrainingProgress::images_per_second, "")}, false);
  }
  html += value_figures(report);
  html += "</div>\n";
  if (report.rows.size() > kMaxCurvePoints)
    html +=
        fmt::format("<p class=\"note\">The curves are drawn through means of {} neighbouring points.</p>\n",
                    (report.rows.size() + kMaxCurvePoints - 1) / kMaxCurvePoints);
  return section("curves", "Curves", html);
}

std::string timestep_bins(const TrainingReport& report) {
  // Earlier validations may have another number of bins.
  const std::size_t bins = report.validations.empty() ? 0 : report.validations.back().bin_losses.size();
  if (bins == 0) return "";
  std::vector<std::string> labels;
  for (std::size_t i = 0; i < bins; ++i)
    labels.push_back(fmt::format("{:.3g}–{:.3g}", 100.0 * static_cast<double>(i) / static_cast<double>(bins),
                                 100.0 * static_cast<double>(i + 1) / static_cast<double>(bins)));
  std::vector<ChartSeries> lines;
  std::string legend = "<div class=\"legend\">";
  for (std::size_t i = 0; i < bins; ++i) {
    ChartSeries line{"", {}, {}, color_of_bin(i, bins)};
    for (const ValidationResult& validation : report.validations) {
      if (validation.bin_losses.size() != bins) continue;
      line.x.push_back(static_cast<double>(validation.step));
      line.y.push_back(validation.bin_losses[i]);
    }
    lines.push_back(thinned(line, kMaxCurvePoints));
    legend += fmt::format("<span><i style=\"background:{}\"></i>{}%</span>", line.color, labels[i]);
  }
  std::string html = "<div class=\"charts\">\n";
  html += bar_figure("chart-timestep-bins",
                     fmt::format("Validation loss at step {}", report.validations.back().step),
                     "place in the noise schedule, in % (0: the least noise)", "loss",
                     report.validations.back().bin_losses, labels);
  html +=
      line_figure("chart-timestep-bins-over-steps", "Validation loss over the steps, by place", "loss", lines,
                  /*log_y=*/true, legend + "</div>\n");
  html += "</div>\n";
  return section("timesteps", "Loss by timestep", html);
}

std::string base64(std::string_view bytes) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const std::string_view part = bytes.substr(i, 3);
    uint32_t word = 0;
    for (std::size_t j = 0; j < 3; ++j)
      word = word << 8 | (j < part.size() ? static_cast<uint8_t>(part[j]) : 0U);
    for (std::size_t j = 0; j < 4; ++j) out += j <= part.size() ? kDigits[word >> (18 - 6 * j) & 63] : '=';
  }
  return out;
}

std::string grids(const TrainingReport& report) {
  require<ConfigError>(report.max_grids >= 1, "max_grids is {}, expected at least 1", report.max_grids);
  const std::size_t count = report.grids.size();
  if (count == 0) return "";
  const std::size_t shown = std::min(count, static_cast<std::size_t>(report.max_grids));
  std::string html = "<div class=\"grids\">\n";
  for (std::size_t i = 0; i < shown; ++i) {
    const ReportGrid& grid = report.grids[shown == 1 ? count - 1 : i * (count - 1) / (shown - 1)];
    const std::string png = read_text_file(grid.path, kMaxImageFile);
    require<FileError>(png.starts_with("\x89PNG\r\n\x1a\n"), "{}: expected a PNG image", escaped(grid.path));
    const std::string name = html_text(grid.name.empty() ? fmt::format("Step {}", grid.step)
                                                         : fmt::format("{}, step {}", grid.name, grid.step));
    html += fmt::format(
        "<figure><figcaption>{0}</figcaption><img alt=\"{0}\" src=\"data:image/png;base64,{1}\"></figure>\n",
        name, base64(png));
  }
  html += "</div>\n";
  if (shown < count) html += fmt::format("<p class=\"note\">{} of {} pictures.</p>\n", shown, count);
  return section("samples", "Samples", html);
}

void append_config_rows(const Json& object, const std::string& prefix, std::string& html) {
  for (const auto& [key, value] : object.items()) {
    if (value.is_object() && !value.empty()) {
      append_config_rows(value, prefix + key + ".", html);
      continue;
    }
    const std::string text = value.is_string() ? value.get<std::string>() : dump_json(value);
    html += fmt::format("<tr><th>{}</th><td>{}</td></tr>\n", html_text(prefix + key), html_text(text));
  }
}

std::string configuration(const TrainingReport& report) {
  if (report.config_json.empty()) return "";
  const Json config = parse_json(report.config_json, "the report's config_json");
  require<ConfigError>(config.is_object(), "the report's config_json is {}, expected an object",
                       json_excerpt(config));
  std::string html = "<table>\n";
  append_config_rows(config, "", html);
  return section("configuration", "Configuration", html + "</table>\n");
}

}  // namespace

std::string training_report_html(const TrainingReport& report) {
  const std::string title = html_text(report.title);
  return fmt::format(
             "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
             "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
             // The policy stops a browser from loading anything that a title or a configuration contains.
             "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; "
             "style-src 'unsafe-inline'\">\n<title>{}</title>\n<style>{}</style>\n</head>\n<body>\n<main>\n"
             "<h1>{}</h1>\n",
             title, kStyle, title) +
         summary(report) + curves(report) + timestep_bins(report) + grids(report) + configuration(report) +
         "</main>\n</body>\n</html>\n";
}

void save_training_report(const TrainingReport& report, const std::filesystem::path& path) {
  require<FileError>(path.native().ends_with(".html"),
                     "{}: reports are written as HTML, expected a name that ends with .html",
                     escaped(path.native()));
  write_file(training_report_html(report), path);
}

std::vector<ReportGrid> find_report_grids(const std::filesystem::path& folder, int64_t last_step) {
  std::vector<ReportGrid> found;
  if (!folder_exists(folder)) return found;
  for (const std::string& name : list_folder(folder)) {
    const std::size_t dash = name.rfind('-');
    if (!name.ends_with(".png") || dash == std::string::npos) continue;
    const char* end = name.data() + name.size() - 4;
    ReportGrid grid{0, join_path(folder, name), name.substr(0, dash)};
    const auto [stopped, error] = std::from_chars(name.data() + dash + 1, end, grid.step);
    if (error == std::errc() && stopped == end && grid.step <= last_step) found.push_back(std::move(grid));
  }
  std::stable_sort(found.begin(), found.end(),
                   [](const ReportGrid& a, const ReportGrid& b) { return a.step < b.step; });
  return found;
}

}  // namespace diffusers

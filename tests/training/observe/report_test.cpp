#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include <diffusers/io/image.h>
#include <diffusers/training/report.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/require.h"
#include "support/golden.h"
#include "training/observe/report_charts.h"

namespace diffusers {
namespace {

using test::expect_throws_with;

bool html_holds(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

std::size_t occurrences(const std::string& text, std::string_view part) {
  std::size_t count = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

/// Returns the text of the <svg> with the id.
std::string chart(const std::string& html, std::string_view id) {
  const auto start = html.find("<svg id=\"" + std::string(id) + "\"");
  if (start == std::string::npos) return "";
  return html.substr(start, html.find("</svg>", start) - start);
}

TrainingReport example_report() {
  TrainingReport report;
  for (int64_t step = 10; step <= 100; step += 10) {
    report.rows.push_back({.step = step,
                           .epoch = step / 50,
                           .loss = 1.0 / static_cast<double>(step),
                           .lr = 1e-3,
                           .grad_norm = 0.5,
                           .images_per_second = 80,
                           // another process runs the second half
                           .elapsed_seconds = static_cast<double>(step <= 50 ? step : step - 50)});
  }
  report.validations = {{50, 0.06, {0.1, 0.04, 0.02}}, {100, 0.03, {0.05, 0.03, std::nan("")}}};
  report.config_json = R"({"learning_rate": 0.001, "nested": {"clip": -Infinity}, "types": ["a", "b"]})";
  return report;
}

TEST(TrainingReport, ShowsEveryChart) {
  const std::string html = training_report_html(example_report());
  for (const char* id : {"chart-loss", "chart-learning-rate", "chart-gradient-norm",
                         "chart-images-per-second", "chart-timestep-bins-over-steps"}) {
    SCOPED_TRACE(id);
    EXPECT_EQ(occurrences(html, "<svg id=\"" + std::string(id) + "\""), 1U);
    EXPECT_GE(occurrences(chart(html, id), "L"), 1U) << "a path with more than one point";
  }
  // Two curves with a legend.
  EXPECT_TRUE(html_holds(chart(html, "chart-loss"), ">training</text>"));
  EXPECT_TRUE(html_holds(chart(html, "chart-loss"), ">validation</text>"));
  // One bar for each bin with examples.
  EXPECT_EQ(occurrences(chart(html, "chart-timestep-bins"), "<title>"), 2U);
  EXPECT_TRUE(html_holds(chart(html, "chart-timestep-bins"), "0–33.3: 0.05"));
  EXPECT_TRUE(html_holds(chart(html, "chart-timestep-bins"), ">none</text>"));
}

TEST(TrainingReport, SumsUpTheTraining) {
  TrainingReport report = example_report();
  report.figures = {{"Device", "cuda:0"}};
  const std::string html = training_report_html(report);
  for (const char* figure :
       {"<dt>Device</dt><dd>cuda:0</dd>", "<dt>Steps</dt><dd>100</dd>", "<dt>Training loss</dt><dd>0.01</dd>",
        "<dt>Validation loss</dt><dd>0.03</dd>", "<dt>Least validation loss</dt><dd>0.03 at step 100</dd>",
        "<dt>Time</dt><dd>1:40</dd>", "<dt>Images/s (median)</dt><dd>80.0</dd>"})
    EXPECT_TRUE(html_holds(html, figure)) << figure;
  report.validations.back().loss = std::nan("");
  EXPECT_TRUE(html_holds(training_report_html(report), "<dd>0.06 at step 50</dd>"));
}

TEST(TrainingReport, ShowsTheNamedValuesOfValidations) {
  TrainingReport report = example_report();
  for (TrainingProgress& row : report.rows) row.values = {{"psnr", 20.0}, {"d_weight", 1.0}};
  report.validations[0].values = {{"psnr", 18.0}, {"lpips", 0.5}};
  report.validations[1].values = {{"psnr", 19.0}, {"lpips", 0.25}};
  const std::string html = training_report_html(report);
  EXPECT_TRUE(html_holds(html, "<dt>Validation psnr</dt><dd>19</dd>"));
  EXPECT_TRUE(html_holds(html, "<dt>Validation lpips</dt><dd>0.25</dd>"));
  // Two curves for a value of both, and one for the others.
  EXPECT_TRUE(html_holds(chart(html, "chart-value-0"), ">training</text>"));
  EXPECT_TRUE(html_holds(chart(html, "chart-value-0"), ">validation</text>"));
  EXPECT_FALSE(html_holds(chart(html, "chart-value-1"), ">training</text>"));
  EXPECT_FALSE(html_holds(chart(html, "chart-value-2"), ">validation</text>"));
  EXPECT_TRUE(html_holds(html, "Validation: lpips"));
  EXPECT_FALSE(html_holds(html, "chart-value-3"));
}

TEST(TrainingReport, ShowsTheConfiguration) {
  const std::string html = training_report_html(example_report());
  EXPECT_TRUE(html_holds(html, "<tr><th>learning_rate</th><td>0.001"));
  EXPECT_TRUE(html_holds(html, "<tr><th>nested.clip</th><td>-Infinity"));
  EXPECT_TRUE(html_holds(html, "<tr><th>types</th><td>[   &quot;a&quot;,"));
}

TEST(TrainingReport, EmbedsPicturesAndChoosesAmongMany) {
  const test::TemporaryFolder folder;
  for (const int64_t step : {5, 10, 100})
    save_image(at::full({1, 2, 2}, 0.5), folder / fmt::format("samples-{}.png", step));
  test::write_bytes(folder / "samples-later.png", "");
  test::write_bytes(folder / "samples-7.txt", "");
  TrainingReport report;
  report.grids = find_report_grids(folder.path(), 100);
  ASSERT_EQ(report.grids.size(), 3U);
  EXPECT_EQ(report.grids[1].step, 10);
  EXPECT_EQ(report.grids[1].name, "samples");
  EXPECT_EQ(find_report_grids(folder.path(), 99).size(), 2U);
  EXPECT_TRUE(find_report_grids(folder / "missing", 99).empty());

  EXPECT_EQ(occurrences(training_report_html(report), "src=\"data:image/png;base64,iVBORw0KGgo"), 3U);
  report.max_grids = 2;
  const std::string html = training_report_html(report);
  EXPECT_TRUE(html_holds(html, "samples, step 5<") && html_holds(html, "samples, step 100<"));
  EXPECT_FALSE(html_holds(html, "samples, step 10<"));
  EXPECT_TRUE(html_holds(html, "2 of 3 pictures"));

  report.grids.push_back({200, folder / "samples-later.png"});
  expect_throws_with<FileError>([&] { training_report_html(report); }, "expected a PNG image");
  report.grids.back().path = folder / "samples-200.png";
  expect_throws_with<FileError>([&] { training_report_html(report); }, "samples-200.png");
}

TEST(TrainingReport, EscapesAllText) {
  TrainingReport report = example_report();
  report.title = "<script>alert('a & b')</script>";
  report.figures = {{"<b>", "\"\xff\x01"}};
  report.config_json = R"({"<key>": "</td><img src=x>"})";
  const std::string html = training_report_html(report);
  EXPECT_EQ(occurrences(html, "&lt;script&gt;alert(&#39;a &amp; b&#39;)&lt;/script&gt;"), 2U);
  EXPECT_TRUE(html_holds(html, "<dt>&lt;b&gt;</dt><dd>&quot;\ufffd </dd>"));
  EXPECT_TRUE(html_holds(html, "<th>&lt;key&gt;</th><td>&lt;/td&gt;&lt;img src=x&gt;</td>"));
  EXPECT_FALSE(html_holds(html, "<script") || html_holds(html, "<b>") || html_holds(html, "<img"));
}

TEST(TrainingReport, NeedsNothingFromOutside) {
  const std::string html = training_report_html(example_report());
  for (const char* part : {"http:", "https:", "src=", "href=", "url(", "@import", "<link", "<script"})
    EXPECT_FALSE(html_holds(html, part)) << part;
}

TEST(TrainingReport, LeavesOutWhatThereIsNot) {
  const std::string html = training_report_html({});
  for (const char* part : {"<svg", "<section", "<table", "nan", "inf"})
    EXPECT_FALSE(html_holds(html, part)) << part;
  TrainingReport report;
  report.validations = {{10, 0.5, {}}};
  EXPECT_TRUE(html_holds(training_report_html(report), "chart-loss"));
  EXPECT_FALSE(html_holds(training_report_html(report), "chart-timestep-bins"));
}

TEST(TrainingReport, RefusesWhatIsNoConfiguration) {
  TrainingReport report;
  report.config_json = "[1]";
  expect_throws_with<ConfigError>([&] { training_report_html(report); },
                                  "config_json is [1], expected an object");
  report.config_json = "{";
  expect_throws_with<FileError>([&] { training_report_html(report); }, "config_json");
  report = {};
  report.max_grids = 0;
  expect_throws_with<ConfigError>([&] { training_report_html(report); }, "max_grids is 0");
  expect_throws_with<FileError>([] { save_training_report({}, "report.txt"); }, ".html");
}

TEST(Thinned, AveragesNeighbours) {
  const ChartSeries whole{"", {1, 3, std::nan(""), 5, 9}, {10, 20, 30, 40, 50}, ""};
  const ChartSeries half = thinned(whole, 3);
  EXPECT_EQ(half.x, (std::vector<double>{15, 35, 50}));
  EXPECT_EQ(half.y, (std::vector<double>{2, 5, 9}));
  EXPECT_EQ(thinned(whole, 5).x, whole.x);
  const ChartSeries none = thinned({"", {std::nan(""), std::nan("")}, {}, ""}, 1);
  EXPECT_EQ(none.x, (std::vector<double>{0.5}));
  EXPECT_TRUE(std::isnan(none.y[0]));
}

}  // namespace
}  // namespace diffusers

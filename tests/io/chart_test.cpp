#include <cmath>
#include <limits>
#include <string>

#include <diffusers/core/error.h>
#include <diffusers/io/chart.h>

#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_throws_with;
using test::TemporaryFolder;

std::size_t count(const std::string& text, std::string_view part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

TEST(LineChart, ShowsTitlesTicksAndSeries) {
  const std::string svg = line_chart_svg(
      {{.name = "loss <a>", .y = {4, 3, 2, 1}}, {.name = "EMA", .y = {1, 1.5}, .x = {0, 3}, .color = "red"}},
      {.title = "Loss & more", .x_label = "step", .y_label = "value"});
  EXPECT_TRUE(svg.starts_with("<svg xmlns="));
  EXPECT_TRUE(svg.ends_with("</svg>\n"));
  for (const std::string_view part :
       {"Loss &amp; more", "loss &lt;a&gt;", ">EMA<", ">step<", ">value<", ">2.5<", "\"red\""})
    EXPECT_NE(svg.find(part), std::string::npos) << part;
  EXPECT_EQ(count(svg, "<text"), count(svg, "</text>"));
}

TEST(LineChart, PointsThatCannotBeShownInterruptTheLine) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::string svg = line_chart_svg({{.y = {1, 10, nan, 100, 0, 1000, HUGE_VAL}}}, {.log_y = true});
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(svg.find("inf"), std::string::npos);
  const auto line = svg.find("stroke-width=\"1.8\"");
  ASSERT_NE(line, std::string::npos);
  const std::string path = svg.substr(svg.rfind("<path d=", line), line - svg.rfind("<path d=", line));
  EXPECT_EQ(count(path, "M"), 3U);
  EXPECT_EQ(count(path, "L"), 1U);
  for (const std::string_view tick : {">1<", ">10<", ">100<", ">1000<"})
    EXPECT_NE(svg.find(tick), std::string::npos) << tick;
}

TEST(LineChart, DegenerateDataStillMakeAChart) {
  for (const bool log_y : {false, true}) {
    for (const std::vector<double>& y :
         {std::vector<double>{}, {5}, {0, 0}, {-1, -1, -1}, {1e-300, 1e300}, {1e-9, 1e-9}}) {
      const std::string svg = line_chart_svg({{.y = y}}, {.log_y = log_y});
      EXPECT_EQ(svg.find("nan"), std::string::npos);
      EXPECT_LT(svg.size(), 10000U);
    }
  }
  EXPECT_NO_THROW(line_chart_svg({}));
}

TEST(LineChart, WhatCannotWorkIsRefused) {
  expect_throws_with<ConfigError>(
      [] {
        line_chart_svg({{.name = "a", .y = {1, 2}, .x = {1}}});
      },
      "1 positions for 2 values");
  expect_throws_with<ConfigError>([] { line_chart_svg({}, {.width = 0}); }, "0 x 440");
  const TemporaryFolder folder;
  expect_throws_with<FileError>([&] { save_line_chart({}, folder / "x.txt"); }, ".svg");
  save_line_chart({{.y = {1, 2}}}, folder / "x.svg");
  EXPECT_TRUE(file_exists(folder / "x.svg"));
}

}  // namespace
}  // namespace diffusers

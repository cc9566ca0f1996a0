#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/io/chart.h>
#include <diffusers/io/files.h>
#include <diffusers/training/progress.h>

#include "core/json.h"
#include "core/require.h"
#include "io/posix_file.h"
#include "io/system_calls.h"

namespace diffusers {
namespace {

constexpr std::array<std::string_view, 10> kColumns{"step",
                                                    "epoch",
                                                    "loss",
                                                    "lr",
                                                    "grad_norm",
                                                    "images_per_second",
                                                    "elapsed_seconds",
                                                    "skipped_steps",
                                                    "data_wait_share",
                                                    "memory_bytes"};
constexpr std::size_t kMaxMetricsBytes = std::size_t{1} << 30;

bool is_own_column(std::string_view name) {
  return std::find(kColumns.begin(), kColumns.end(), name) != kColumns.end();
}

/// Marks the named values of a validation.
constexpr std::string_view kValidationPrefix = "validation/";

/// Adds the names of values that are not yet known.
/// @return true if there are any
bool add_names(const std::vector<std::pair<std::string, double>>& values, std::vector<std::string>& names) {
  bool is_changed = false;
  for (const auto& entry : values) {
    const std::string& name = entry.first;
    if (std::find(names.begin(), names.end(), name) != names.end()) continue;
    require<ConfigError>(
        !name.empty() && !is_own_column(name) &&
            name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"
                                   "-./") == std::string::npos,
        "a value of the loss has the name {}, expected letters, digits, '_', '-', '.' and '/', and "
        "none of the columns {}",
        escaped(name), fmt::join(kColumns, ", "));
    names.push_back(name);
    is_changed = true;
  }
  return is_changed;
}

/// Formats a cell for each name. The cell of a missing value is empty.
std::string value_cells(const std::vector<std::pair<std::string, double>>& values,
                        const std::vector<std::string>& names) {
  std::string cells;
  for (const std::string& name : names) {
    cells += ",";
    for (const auto& [own_name, value] : values)
      if (own_name == name) cells += fmt::format("{:.9g}", value);
  }
  return cells;
}

std::vector<std::string> split_cells(const std::string& line) {
  std::vector<std::string> cells;
  std::istringstream rest(line);
  for (std::string cell; std::getline(rest, cell, ',');) cells.push_back(cell);
  return cells;
}

/// Sorts the names by the columns of an earlier file. metrics.jsonl is read with its values sorted by name.
/// @param prefix of the names in the columns
void keep_column_order(const std::vector<std::string>& columns, std::string_view prefix,
                       std::vector<std::string>& names) {
  const auto place_of = [&](const std::string& name) {
    return std::find(columns.begin(), columns.end(), std::string(prefix) + name) - columns.begin();
  };
  std::stable_sort(names.begin(), names.end(), [&](const std::string& left, const std::string& right) {
    return place_of(left) < place_of(right);
  });
}

/// Parses a metrics.csv with its columns in any order. Incomplete rows are left out.
std::vector<TrainingProgress> parse_csv(const std::string& text) {
  std::istringstream lines(text);
  std::string line;
  std::getline(lines, line);
  const std::vector<std::string> names = split_cells(line);
  std::vector<TrainingProgress> rows;
  // A last line without a line break is incomplete.
  while (std::getline(lines, line) && !lines.eof()) {
    const std::vector<std::string> cells = split_cells(line);
    std::map<std::string, double> values;
    for (std::size_t i = 0; i < std::min(cells.size(), names.size()); ++i) {
      double value = 0;
      const char* end = cells[i].data() + cells[i].size();
      const auto [stopped, error] = std::from_chars(cells[i].data(), end, value);
      if (error == std::errc() && stopped == end) values[names[i]] = value;
    }
    if (values.size() != names.size() || !values.contains("step")) continue;
    TrainingProgress row;
    row.step = static_cast<int64_t>(values["step"]);
    row.epoch = static_cast<int64_t>(values["epoch"]);
    row.loss = values["loss"];
    row.lr = values["lr"];
    row.grad_norm = values["grad_norm"];
    row.images_per_second = values["images_per_second"];
    row.elapsed_seconds = values["elapsed_seconds"];
    row.skipped_steps = static_cast<int64_t>(values["skipped_steps"]);
    row.data_wait_share = values["data_wait_share"];
    row.memory_bytes = static_cast<int64_t>(values["memory_bytes"]);
    rows.push_back(row);
  }
  return rows;
}

/// Formats a number. JSON has no NaN and no infinities; pandas and jq read null as missing.
std::string json_number(double value, int digits = 9) {
  return std::isfinite(value) ? fmt::format("{:.{}g}", value, digits) : "null";
}

std::string json_line(const TrainingProgress& progress) {
  std::string values;
  for (const auto& [name, value] : progress.values)
    values += fmt::format(",\"{}\":{}", name, json_number(value));
  return fmt::format(
      "{{\"step\":{},\"epoch\":{},\"loss\":{},\"lr\":{},\"grad_norm\":{},\"images_per_second\":{},"
      "\"elapsed_seconds\":{},\"skipped_steps\":{},\"data_wait_share\":{},\"memory_bytes\":{}{}}}\n",
      progress.step, progress.epoch, json_number(progress.loss), json_number(progress.lr),
      json_number(progress.grad_norm), json_number(progress.images_per_second),
      json_number(progress.elapsed_seconds), progress.skipped_steps, json_number(progress.data_wait_share, 4),
      progress.memory_bytes, values);
}

std::string json_line(const ValidationResult& validation) {
  std::vector<std::string> bins;
  for (const double loss : validation.bin_losses) bins.push_back(json_number(loss));
  std::string values;
  for (const auto& [name, value] : validation.values)
    values += fmt::format(",\"{}{}\":{}", kValidationPrefix, name, json_number(value));
  return fmt::format("{{\"step\":{},\"validation_loss\":{},\"validation_bin_losses\":[{}]{}}}\n",
                     validation.step, json_number(validation.loss), fmt::join(bins, ","), values);
}

double real_of(const Json& json) {
  return json.is_number() ? json.get<double>() : std::numeric_limits<double>::quiet_NaN();
}
double real_of(const Json& line, const char* key) { return line.contains(key) ? real_of(line[key]) : 0.0; }
int64_t integer_of(const Json& line, const char* key) {
  return line.contains(key) && line[key].is_number_integer() ? line[key].get<int64_t>() : 0;
}

}  // namespace

MetricsLog::MetricsLog(const std::filesystem::path& folder, int64_t resumed_step)
    : csv_path_(join_path(folder, "metrics.csv")), json_path_(join_path(folder, "metrics.jsonl")) {
  std::string kept, csv;
  if (resumed_step > 0 && file_exists(csv_path_)) csv = read_text_file(csv_path_, kMaxMetricsBytes);
  if (resumed_step > 0 && file_exists(json_path_)) {
    std::istringstream lines(read_text_file(json_path_, kMaxMetricsBytes));
    for (std::string line; std::getline(lines, line) && !lines.eof();) keep(line, resumed_step, kept);
  } else {
    // Earlier versions wrote no metrics.jsonl.
    for (const TrainingProgress& row : parse_csv(csv)) {
      if (row.step > resumed_step) continue;
      rows_.push_back(row);
      kept += json_line(row);
    }
  }
  for (const TrainingProgress& row : rows_) add_names(row.values, value_names_);
  for (const ValidationResult& validation : validations_) add_names(validation.values, validation_names_);
  const std::vector<std::string> columns = split_cells(csv.substr(0, csv.find('\n')));
  keep_column_order(columns, "", value_names_);
  keep_column_order(columns, kValidationPrefix, validation_names_);
  write_csv();
  write_file(kept, json_path_);
}

std::string MetricsLog::csv_header() const {
  std::string header = fmt::format("{}", fmt::join(kColumns, ","));
  for (const std::string& name : value_names_) header += "," + name;
  for (const std::string& name : validation_names_) header += fmt::format(",{}{}", kValidationPrefix, name);
  return header + "\n";
}

std::string MetricsLog::csv_row(const TrainingProgress& progress, const ValidationResult* validation) const {
  return fmt::format(
      "{},{},{:.9g},{:.9g},{:.9g},{:.2f},{:.2f},{},{:.4f},{}{}{}\n", progress.step, progress.epoch,
      progress.loss, progress.lr, progress.grad_norm, progress.images_per_second, progress.elapsed_seconds,
      progress.skipped_steps, progress.data_wait_share, progress.memory_bytes,
      value_cells(progress.values, value_names_),
      value_cells(validation == nullptr ? std::vector<std::pair<std::string, double>>() : validation->values,
                  validation_names_));
}

std::string MetricsLog::csv_row(const ValidationResult& validation) const {
  if (validation.values.empty()) return "";
  const std::string empty_cells(kColumns.size() - 1 + value_names_.size(), ',');
  return fmt::format("{}{}{}\n", validation.step, empty_cells,
                     value_cells(validation.values, validation_names_));
}

void MetricsLog::write_csv() const {
  std::string csv = csv_header();
  // Both lists are in the order of the steps.
  auto validation = validations_.begin();
  for (const TrainingProgress& row : rows_) {
    const ValidationResult* of_row = nullptr;
    for (; validation != validations_.end() && validation->step <= row.step; ++validation) {
      if (validation->step == row.step) {
        of_row = &*validation;
      } else {
        csv += csv_row(*validation);
      }
    }
    csv += csv_row(row, of_row);
  }
  for (; validation != validations_.end(); ++validation) csv += csv_row(*validation);
  write_file(csv, csv_path_);
}

void MetricsLog::keep(const std::string& line, int64_t resumed_step, std::string& kept) {
  Json json;
  try {
    json = parse_json(line, json_path_);
  } catch (const FileError&) {
    return;  // a crash truncated the line, or left zeros
  }
  if (!json.is_object() || !json.contains("step") || integer_of(json, "step") > resumed_step) return;
  if (json.contains("validation_loss")) {
    ValidationResult validation;
    validation.step = integer_of(json, "step");
    validation.loss = real_of(json, "validation_loss");
    if (json.contains("validation_bin_losses"))
      for (const Json& loss : json["validation_bin_losses"]) validation.bin_losses.push_back(real_of(loss));
    for (const auto& [key, value] : json.items())
      if (key.starts_with(kValidationPrefix))
        validation.values.emplace_back(key.substr(kValidationPrefix.size()), real_of(value));
    validations_.push_back(std::move(validation));
  } else {
    TrainingProgress row;
    row.step = integer_of(json, "step");
    row.epoch = integer_of(json, "epoch");
    row.loss = real_of(json, "loss");
    row.lr = real_of(json, "lr");
    row.grad_norm = real_of(json, "grad_norm");
    row.images_per_second = real_of(json, "images_per_second");
    row.elapsed_seconds = real_of(json, "elapsed_seconds");
    row.skipped_steps = integer_of(json, "skipped_steps");
    row.data_wait_share = real_of(json, "data_wait_share");
    row.memory_bytes = integer_of(json, "memory_bytes");
    for (const auto& [key, value] : json.items())
      if (!is_own_column(key)) row.values.emplace_back(key, real_of(value));
    rows_.push_back(row);
  }
  kept += line + "\n";
}

void MetricsLog::append(const TrainingProgress& progress) {
  const bool has_new_columns = add_names(progress.values, value_names_);
  rows_.push_back(progress);
  append_to_file(json_path_, json_line(progress));
  if (has_new_columns) {
    write_csv();
  } else {
    append_to_file(csv_path_, csv_row(progress, nullptr));
  }
}

void MetricsLog::append_validation(const ValidationResult& validation) {
  add_names(validation.values, validation_names_);
  append_to_file(json_path_, json_line(validation));
  validations_.push_back(validation);
  if (!validation.values.empty()) write_csv();
}

std::vector<double> MetricsLog::steps() const {
  std::vector<double> values;
  for (const TrainingProgress& row : rows_) values.push_back(static_cast<double>(row.step));
  return values;
}

std::vector<double> MetricsLog::losses() const {
  std::vector<double> values;
  for (const TrainingProgress& row : rows_) values.push_back(row.loss);
  return values;
}

void MetricsLog::save_loss_chart(const std::filesystem::path& path) const {
  if (rows_.size() < 2) return;
  ChartSeries loss;
  loss.name = "loss";
  loss.x = steps();
  loss.y = losses();
  ChartOptions options;
  options.title = "Training loss";
  options.x_label = "step";
  options.y_label = "loss";
  options.log_y = std::all_of(loss.y.begin(), loss.y.end(), [](double value) { return value > 0; });
  save_line_chart({loss}, path, options);
}

}  // namespace diffusers

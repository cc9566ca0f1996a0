#include "training/checkpoint/output_folder.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <string_view>

#include <diffusers/core/logging.h>
#include <diffusers/io/files.h>

#include <sys/stat.h>
#include <unistd.h>

#include "core/json.h"
#include "core/require.h"
#include "io/folders.h"
#include "io/posix_file.h"
#include "io/system_calls.h"
#include "training/checkpoint/checkpoint.h"

namespace diffusers {
inline namespace internal {
namespace {

constexpr const char* kAsideMarker = "setting_aside.json";
constexpr const char* kOverwritingMarker = "overwriting.json";
constexpr std::string_view kAbandonedPrefix = "abandoned-";
constexpr std::size_t kMaxMetricsCopy = std::size_t{1} << 30;

bool is_own_folder(const std::string& path) { return S_ISDIR(mode_of(path)); }

/// Returns the names in a folder. Returns none for a link or a missing folder.
std::vector<std::string> names_in(const std::string& folder) {
  return is_own_folder(folder) ? list_folder(folder) : std::vector<std::string>();
}

/// Returns `text` as a number, or -1 if it is not a number as a whole.
int64_t step_number(std::string_view text) {
  int64_t step = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), step);
  return error == std::errc() && end == text.data() + text.size() && !text.empty() ? step : -1;
}

/// Returns STEP of "NAME-STEP.png", or -1 for any other name.
int64_t step_of_preview(std::string_view name) {
  const std::size_t dash = name.rfind('-');
  if (!name.ends_with(".png") || dash == std::string_view::npos || dash == 0) return -1;
  return step_number(name.substr(dash + 1, name.size() - 4 - dash - 1));
}

/// Returns STEP of "power_ema-STEP-WIDTH.safetensors", or -1 for any other name.
int64_t step_of_snapshot(std::string_view name) {
  constexpr std::string_view kPrefix = "power_ema-";
  if (!name.starts_with(kPrefix) || !name.ends_with(".safetensors")) return -1;
  name.remove_prefix(kPrefix.size());
  return step_number(name.substr(0, name.find('-')));
}

/// Returns STEP of "learned_embeds-steps-STEP.safetensors", or -1 for any other name.
int64_t step_of_embeds(std::string_view name) {
  constexpr std::string_view kPrefix = "learned_embeds-steps-";
  constexpr std::string_view kSuffix = ".safetensors";
  if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix)) return -1;
  name.remove_prefix(kPrefix.size());
  return step_number(name.substr(0, name.size() - kSuffix.size()));
}

/// A file that belongs to one step of a training.
struct StepFile {
  std::string folder;  // in output_dir; empty: output_dir itself
  std::string name;
  int64_t step = 0;
};

std::vector<StepFile> power_ema_snapshots(const std::string& output_dir) {
  std::vector<StepFile> found;
  for (const std::string& model : names_in(join_path(output_dir, "power_ema"))) {
    const std::string folder = join_path("power_ema", model);
    for (const std::string& name : names_in(join_path(output_dir, folder)))
      if (const int64_t step = step_of_snapshot(name); step >= 0) found.push_back({folder, name, step});
  }
  return found;
}

std::vector<StepFile> step_files(const std::string& output_dir) {
  std::vector<StepFile> found = power_ema_snapshots(output_dir);
  for (const std::string& name : names_in(join_path(output_dir, "previews")))
    if (const int64_t step = step_of_preview(name); step >= 0) found.push_back({"previews", name, step});
  for (const std::string& name : names_in(output_dir))
    if (const int64_t step = step_of_embeds(name); step >= 0) found.push_back({"", name, step});
  return found;
}

void remove_if_empty(const std::string& folder) {
  const int error = error_of([&] { return ::rmdir(folder.c_str()); });
  require<FileError>(
      error == 0 || error == ENOENT || error == ENOTEMPTY || error == EEXIST || error == ENOTDIR,
      "cannot remove folder {}: {}", escaped(folder), errno_text(error));
}

/// Removes the files of a folder for which `is_ours` is true, then the folder if it is empty.
template <class Predicate>
void remove_files_of(const std::string& folder, Predicate is_ours) {
  if (!is_own_folder(folder)) return;
  for (const std::string& name : list_folder(folder))
    if (is_ours(name) && !is_own_folder(join_path(folder, name))) remove_file(join_path(folder, name));
  remove_if_empty(folder);
}

bool is_file_of_model(std::string_view name) {
  return name == "config.json" || name == "scheduler_config.json" || name.ends_with(".safetensors") ||
         name.find(".safetensors.index.") != std::string_view::npos;
}

bool is_event_file(std::string_view name) { return name.starts_with("events.out.tfevents."); }

/// Returns `logging_dir` of an earlier training from its training_config.json. Empty: it is not known.
std::string earlier_logging_dir(const std::string& output_dir) {
  const std::string path = join_path(output_dir, "training_config.json");
  try {
    const Json config = parse_json(read_text_file(path), path);
    const std::string folder = config.at("logging_dir").get<std::string>();
    return folder.starts_with('/') || folder.find("..") != std::string::npos ? "" : folder;
  } catch (const FileError&) {
    return {};
  } catch (const Json::exception&) {
    return {};
  }
}

std::vector<std::string> abandoned_folders(const std::string& output_dir) {
  std::vector<std::string> found;
  for (const std::string& name : names_in(output_dir))
    if (name.starts_with(kAbandonedPrefix) && step_number(name.substr(kAbandonedPrefix.size())) > 0)
      found.push_back(name);
  std::sort(found.begin(), found.end(), [](const std::string& a, const std::string& b) {
    return step_number(a.substr(kAbandonedPrefix.size())) < step_number(b.substr(kAbandonedPrefix.size()));
  });
  return found;
}

std::vector<int64_t> checkpoints_after(const std::string& output_dir, int64_t step) {
  std::vector<int64_t> steps = list_checkpoints(output_dir);
  steps.erase(steps.begin(), std::upper_bound(steps.begin(), steps.end(), step));
  return steps;
}

}  // namespace

std::string earlier_results(const std::string& output_dir, const std::vector<std::string>& model_names) {
  const std::vector<int64_t> steps = list_checkpoints(output_dir);
  if (!steps.empty()) return fmt::format("checkpoints, the newest of step {}", steps.back());
  for (const std::string& name : model_names) {
    const std::string folder = join_path(output_dir, name);
    if (!folder_exists(folder)) continue;
    const std::vector<std::string> files = list_folder(folder);
    if (std::any_of(files.begin(), files.end(), is_file_of_model))
      return fmt::format("a finished model in {}/", name);
  }
  if (file_exists(join_path(output_dir, "model_index.json"))) return "a model_index.json";
  if (!power_ema_snapshots(output_dir).empty()) return "snapshots in power_ema/";
  return {};
}

void remove_earlier_training(const std::string& output_dir, const std::vector<std::string>& model_names,
                             const std::string& logging_dir, bool keep_abandoned) {
  // If the process is killed here, a later start must not resume from a remaining old checkpoint.
  const std::string marker = join_path(output_dir, kOverwritingMarker);
  write_file(dump_json({{"version", 1}, {"keep_abandoned", keep_abandoned}}), marker);
  // Files that a later start could resume from are removed first.
  remove_file(join_path(output_dir, kAsideMarker));
  std::vector<int64_t> steps = list_checkpoints(output_dir);
  for (std::size_t i = steps.size(); i-- > 0;) remove_checkpoint(output_dir, steps[i]);

  remove_file(join_path(output_dir, "model_index.json"));
  for (const std::string& name : model_names) remove_files_of(join_path(output_dir, name), is_file_of_model);
  for (const char* name : {"log_variance", "scheduler"})
    remove_files_of(join_path(output_dir, name), is_file_of_model);

  std::vector<std::string> folders;
  for (const StepFile& file : step_files(output_dir)) {
    remove_file(join_path(output_dir, join_path(file.folder, file.name)));
    if (!file.folder.empty()) folders.push_back(file.folder);
  }
  folders.emplace_back("power_ema");
  for (const std::string& folder : folders) remove_if_empty(join_path(output_dir, folder));

  for (const std::string& folder : {logging_dir, earlier_logging_dir(output_dir)})
    if (!folder.empty() && !is_same_folder(join_path(output_dir, folder), output_dir))
      remove_files_of(join_path(output_dir, folder), is_event_file);
  for (const std::string& name : names_in(output_dir))
    if (is_event_file(name)) remove_file(join_path(output_dir, name));
  for (const char* name : {"metrics.csv", "metrics.jsonl", "report.html", "loss.svg", "noise_schedule.svg",
                           "training_config.json", "learned_embeds.safetensors"})
    remove_file(join_path(output_dir, name));
  if (!keep_abandoned)
    for (const std::string& name : abandoned_folders(output_dir)) {
      const std::string folder = join_path(output_dir, name);
      remove_earlier_training(folder, model_names, logging_dir);
      remove_if_empty(folder);
    }
  sync_folder(output_dir);
  remove_file(marker);
  sync_folder(output_dir);
}

void finish_removing(const std::string& output_dir, const std::vector<std::string>& model_names,
                     const std::string& logging_dir) {
  const std::string marker = join_path(output_dir, kOverwritingMarker);
  if (!file_exists(marker)) return;
  const Json todo = parse_json(read_text_file(marker), marker);
  const bool is_valid = todo.is_object() && todo.value("version", Json()) == 1 &&
                        todo.contains("keep_abandoned") && todo["keep_abandoned"].is_boolean();
  require<FileError>(is_valid, "{} is not a valid record of an interrupted overwrite", escaped(marker));
  log_message(LogLevel::kWarning,
              fmt::format("overwriting {} was interrupted; the remaining files of the earlier training are "
                          "removed now",
                          output_dir));
  remove_earlier_training(output_dir, model_names, logging_dir, todo["keep_abandoned"].get<bool>());
}

void set_aside_after(const std::string& output_dir, int64_t step) {
  if (checkpoints_after(output_dir, step).empty()) return;
  const std::vector<std::string> earlier = abandoned_folders(output_dir);
  const int64_t number =
      earlier.empty() ? 1 : step_number(earlier.back().substr(kAbandonedPrefix.size())) + 1;
  const std::string folder = fmt::format("{}{}", kAbandonedPrefix, number);
  write_file(dump_json({{"version", 1}, {"after_step", step}, {"folder", folder}}),
             join_path(output_dir, kAsideMarker));
  finish_setting_aside(output_dir);
}

void finish_setting_aside(const std::string& output_dir) {
  const std::string marker = join_path(output_dir, kAsideMarker);
  if (!file_exists(marker)) return;
  const Json todo = parse_json(read_text_file(marker), marker);
  const bool is_valid = todo.is_object() && todo.value("version", Json()) == 1 &&
                        todo.contains("after_step") && todo["after_step"].is_number_integer() &&
                        todo.contains("folder") && todo["folder"].is_string();
  require<FileError>(is_valid, "{} is not a valid record of checkpoints to move", escaped(marker));
  const auto after = todo["after_step"].get<int64_t>();
  const auto name = todo["folder"].get<std::string>();
  require<FileError>(is_plain_basename(name) && name.starts_with(kAbandonedPrefix),
                     "{} names the folder {}, expected \"{}N\"", escaped(marker), escaped(name),
                     kAbandonedPrefix);
  const std::string folder = join_path(output_dir, name);
  create_folders(folder);
  for (const char* log : {"metrics.csv", "metrics.jsonl"}) {
    const std::string from = join_path(output_dir, log);
    const std::string to = join_path(folder, log);
    if (file_exists(from) && !file_exists(to)) write_file(read_text_file(from, kMaxMetricsCopy), to);
  }
  const std::vector<int64_t> steps = checkpoints_after(output_dir, after);
  for (std::size_t i = steps.size(); i-- > 0;)
    rename_path(checkpoint_path(output_dir, steps[i]), checkpoint_path(folder, steps[i]));
  for (const StepFile& file : step_files(output_dir)) {
    if (file.step <= after) continue;
    create_folders(join_path(folder, file.folder));
    rename_path(join_path(output_dir, join_path(file.folder, file.name)),
                join_path(folder, join_path(file.folder, file.name)));
    sync_folder(join_path(output_dir, file.folder));
  }
  sync_folder(output_dir);
  remove_file(marker);
  sync_folder(output_dir);
  log_message(
      LogLevel::kWarning,
      fmt::format("the training continues from step {}; later checkpoints were moved to {}", after, folder));
}

std::string find_set_aside(const std::string& output_dir, const std::string& name) {
  const std::vector<std::string> folders = abandoned_folders(output_dir);
  for (std::size_t i = folders.size(); i-- > 0;) {
    std::string path = join_path(join_path(output_dir, folders[i]), name);
    if (folder_exists(path)) return path;
  }
  return {};
}

void remove_outputs_after(const std::string& output_dir, int64_t step) {
  for (const StepFile& file : step_files(output_dir))
    if (file.step > step) remove_file(join_path(output_dir, join_path(file.folder, file.name)));
}

bool is_same_folder(const std::string& a, const std::string& b) {
  struct stat first {};
  struct stat second {};
  return ::stat(a.c_str(), &first) == 0 && ::stat(b.c_str(), &second) == 0 && S_ISDIR(first.st_mode) &&
         first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

}  // namespace internal
}  // namespace diffusers

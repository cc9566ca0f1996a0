#include "io/staged_folder.h"

#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/logging.h>
#include <diffusers/io/files.h>

#include <sys/stat.h>

#include "core/require.h"
#include "io/folders.h"
#include "io/manifest.h"
#include "io/posix_file.h"
#include "io/system_calls.h"

namespace diffusers {
inline namespace internal {
namespace {

constexpr std::string_view kPartialSuffix = ".partial";
constexpr std::string_view kRemovedSuffix = ".removed";    // being removed
constexpr std::string_view kReplacedSuffix = ".replaced";  // until the new folder has its name

/// Runs `function` and logs its FileError, if any.
template <class Function>
void log_file_errors(Function function) {
  try {
    function();
  } catch (const FileError& error) {
    log_message(LogLevel::kWarning, error.what());
  }
}

}  // namespace

StagedFolder::StagedFolder(std::string path)
    : path_(std::move(path)), stage_(path_ + std::string(kPartialSuffix)) {
  remove_folder(stage_);
  create_folders(stage_);
}

StagedFolder::~StagedFolder() {
  if (!is_published_) log_file_errors([&] { remove_folder(stage_); });
}

void StagedFolder::publish() {
  sync_tree(stage_);
  take_place();
}

void StagedFolder::publish_with_manifest() {
  write_manifest(stage_);
  take_place();
}

void StagedFolder::take_place() {
  if (!S_ISDIR(mode_of(path_))) {
    rename_path(stage_, path_);
    is_published_ = true;
    return;
  }
  if (exchange_paths(stage_, path_) == 0) {
    try {
      sync_folder(parent_folder(path_));
    } catch (const FileError&) {
      exchange_paths(stage_, path_);  // the new folder may not be on the disk, so the old one is restored
      throw;
    }
    is_published_ = true;
    remove_folder(stage_);  // the stage is the old folder now
    return;
  }
  // Between the two renames no folder has the final name. remove_unfinished_folders restores the old folder.
  const std::string old = path_ + std::string(kReplacedSuffix);
  remove_folder(old);
  try {
    rename_path(path_, old);
    rename_path(stage_, path_);
  } catch (const FileError&) {
    log_file_errors([&] {
      if (mode_of(old) == 0) return;
      if (mode_of(path_) != 0) rename_path(path_, stage_);
      rename_path(old, path_);
    });
    throw;
  }
  is_published_ = true;
  remove_folder(old);
}

void remove_folder_at_once(const std::string& path) {
  const std::string removed = path + std::string(kRemovedSuffix);
  remove_folder(removed);
  rename_path(path, removed);
  remove_folder(removed);
}

void remove_unfinished_folders(const std::string& folder) {
  const auto is_there = [&](std::string_view stem, std::string_view suffix) {
    return mode_of(join_path(folder, std::string(stem) + std::string(suffix))) != 0;
  };
  // Returns the name without the suffix; empty if it does not have the suffix.
  const auto stem_of_folder = [&](const std::string& name, std::string_view suffix) -> std::string {
    if (!name.ends_with(suffix) || !S_ISDIR(mode_of(join_path(folder, name)))) return {};
    return name.substr(0, name.size() - suffix.size());
  };
  // A folder that a killed process was replacing. Earlier versions gave it the suffix of removed folders.
  const auto is_to_be_restored = [&](const std::string& name, std::string_view suffix) {
    const std::string stem = stem_of_folder(name, suffix);
    return !stem.empty() && !is_there(stem, "") &&
           (suffix == kReplacedSuffix || is_there(stem, kPartialSuffix));
  };
  const auto restore = [&](const std::string& name, std::string_view suffix) {
    if (!is_to_be_restored(name, suffix)) return;
    const std::string path = join_path(folder, stem_of_folder(name, suffix));
    rename_path(join_path(folder, name), path);
    log_message(LogLevel::kWarning, fmt::format("{} was about to be replaced when an earlier process ended; "
                                                "it is kept as it was",
                                                escaped(path)));
  };
  log_file_errors([&] {
    for (const std::string& name : list_folder(folder))
      log_file_errors([&] {
        for (const std::string_view suffix : {kReplacedSuffix, kRemovedSuffix}) restore(name, suffix);
      });
    for (const std::string& name : list_folder(folder))
      log_file_errors([&] {
        for (const std::string_view suffix : {kPartialSuffix, kReplacedSuffix, kRemovedSuffix}) {
          const bool stays = suffix != kPartialSuffix && is_to_be_restored(name, suffix);
          if (!stem_of_folder(name, suffix).empty() && !stays) remove_folder(join_path(folder, name));
        }
      });
  });
}

void remove_temporary_files(const std::string& folder) {
  const auto remove_from = [](const std::string& from) {
    for (const std::string& name : list_folder(from))
      if (is_temporary_name(name)) {
        const std::string path = join_path(from, name);
        S_ISDIR(mode_of(path)) ? remove_folder(path) : remove_file(path);
      }
  };
  log_file_errors([&] {
    remove_from(folder);
    for (const std::string& name : list_folder(folder))
      log_file_errors([&] {
        const std::string path = join_path(folder, name);
        if (S_ISDIR(mode_of(path))) remove_from(path);
      });
  });
}

}  // namespace internal
}  // namespace diffusers

#include "training/checkpoint/checkpoint.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/logging.h>
#include <diffusers/io/files.h>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "core/json.h"
#include "core/require.h"
#include "io/open_model_file.h"
#include "io/system_calls.h"
#include "training/sha256.h"

namespace diffusers {
namespace {

constexpr std::string_view kCheckpointPrefix = "checkpoint-";
constexpr std::string_view kPartialSuffix = ".partial";
constexpr std::string_view kRemovedSuffix = ".removed";    // on its way out
constexpr std::string_view kReplacedSuffix = ".replaced";  // until another one has its name
constexpr const char* kManifest = "manifest.json";

/// The files below a folder, as paths relative to it, sorted.
void collect_files(const std::string& root, const std::string& relative, std::vector<std::string>& files) {
  for (const std::string& name : list_folder(join_path(root, relative))) {
    const std::string path = join_path(relative, name);
    const std::string full = join_path(root, path);
    const mode_t mode = mode_of(full);
    if (S_ISDIR(mode)) {
      collect_files(root, path, files);
    } else if (S_ISREG(mode)) {
      files.push_back(path);
    } else {
      fail<FileError>("{} is neither a file nor a folder", escaped(full));
    }
  }
}

std::string sha256_of_file(const InputFile& file) {
  Sha256 sha;
  std::string buffer(std::size_t{1} << 20, '\0');
  for (uint64_t offset = 0; offset < file.size();) {
    const auto count = static_cast<std::size_t>(std::min<uint64_t>(buffer.size(), file.size() - offset));
    file.read(buffer.data(), count, offset);
    sha.update(std::string_view(buffer).substr(0, count));
    offset += count;
  }
  return sha.hex_digest();
}

/// For what need not succeed.
template <class Function>
void log_file_errors(Function function) {
  try {
    function();
  } catch (const FileError& error) {
    log_message(LogLevel::kWarning, error.what());
  }
}

/// Writes `manifest.json` for all files below a folder, once they are on the disk.
void write_manifest(const std::string& folder) {
  sync_tree(folder);
  std::vector<std::string> paths;
  collect_files(folder, "", paths);
  Json files = Json::object();
  for (const std::string& path : paths) {
    const InputFile file(join_path(folder, path));
    files[path] = {{"size", file.size()}, {"sha256", sha256_of_file(file)}};
  }
  write_file_atomically(join_path(folder, kManifest), dump_json({{"version", 1}, {"files", files}}));
}

}  // namespace

int64_t checkpoint_step(std::string_view name) {
  if (!name.starts_with(kCheckpointPrefix)) return -1;
  name.remove_prefix(kCheckpointPrefix.size());
  int64_t step = -1;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), step);
  // "checkpoint-007" is not a name that this library writes.
  const bool is_whole = error == std::errc() && end == name.data() + name.size() && !name.empty();
  return is_whole && std::to_string(step) == name ? step : -1;
}

OutputLock::OutputLock(const std::string& folder) : folder_(open_retrying(folder, O_RDONLY | O_DIRECTORY)) {
  require<FileError>(folder_.get() >= 0, "cannot open the folder {}: {}", escaped(folder), errno_text(errno));
  const int error = error_of([&] { return ::flock(folder_.get(), LOCK_EX | LOCK_NB); });
  if (error == 0) return;
  require<FileError>(error != EWOULDBLOCK, "output_dir is {}, and another training writes there",
                     escaped(folder));
  // A network file system without locks: better to train than to refuse.
  warn_once("output_dir cannot be locked (" + errno_text(error) +
            "); see that no other training writes there");
}

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
      exchange_paths(stage_, path_);  // what was there is not given up for what the disk may not have
      throw;
    }
    is_published_ = true;
    remove_folder(stage_);  // which is now the old one
    return;
  }
  // Between the two renames nothing has the name: remove_unfinished_folders puts the old one back.
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

void verify_manifest(const std::string& folder) {
  const std::string manifest = join_path(folder, kManifest);
  try {
    const std::string text = read_text_file(manifest);
    // The one byte that can be missing from a JSON object which still parses.
    require<FileError>(text.ends_with("}\n"), "{} is cut short", escaped(manifest));
    const Json json = parse_json(text, manifest);
    require<FileError>(json.is_object() && json.value("version", 0) == 1 && json.contains("files") &&
                           json.at("files").is_object() && !json.at("files").empty(),
                       "{} is not a manifest of version 1", escaped(manifest));
    for (const auto& [path, entry] : json.at("files").items()) {
      const std::string full = join_path(folder, path);
      require<FileError>(!path.starts_with('/') && path.find("..") == std::string::npos,
                         "{} names a file outside of the checkpoint: {}", escaped(manifest), escaped(path));
      // Every file that a resume reads is listed: a link out of the checkpoint ends here.
      const InputFile file = open_model_file(folder_inside(folder, parent_folder(path)), base_name(path));
      require<FileError>(file.size() == entry.at("size").get<uint64_t>(),
                         "{} has {} bytes, its manifest says {}", escaped(full), file.size(),
                         entry.at("size").get<uint64_t>());
      require<FileError>(sha256_of_file(file) == entry.at("sha256").get<std::string>(),
                         "the content of {} is not what its manifest says (SHA-256)", escaped(full));
    }
  } catch (const Json::exception& error) {
    fail<FileError>("{} is damaged: {}", escaped(manifest), error.what());
  }
}

std::string checkpoint_path(const std::string& output_dir, int64_t step) {
  return join_path(output_dir, std::string(kCheckpointPrefix) + std::to_string(step));
}

std::vector<int64_t> list_checkpoints(const std::string& output_dir) {
  std::vector<int64_t> steps;
  if (!folder_exists(output_dir)) return steps;
  for (const std::string& name : list_folder(output_dir))
    // A checkpoint that cannot be examined is an error, not none: the training must not start again at 0.
    if (checkpoint_step(name) >= 0 && S_ISDIR(mode_of(join_path(output_dir, name), /*follow_link=*/true)))
      steps.push_back(checkpoint_step(name));
  std::sort(steps.begin(), steps.end());
  return steps;
}

void remove_checkpoint(const std::string& output_dir, int64_t step) {
  const std::string path = checkpoint_path(output_dir, step);
  const std::string removed = path + std::string(kRemovedSuffix);
  remove_folder(removed);
  rename_path(path, removed);
  remove_folder(removed);
}

void keep_newest_checkpoints(const std::string& output_dir, int64_t limit, int64_t current_step) {
  std::vector<int64_t> steps = list_checkpoints(output_dir);
  steps.erase(std::upper_bound(steps.begin(), steps.end(), current_step), steps.end());
  for (std::size_t i = 0; i + static_cast<std::size_t>(limit) < steps.size(); ++i)
    remove_checkpoint(output_dir, steps[i]);
}

void remove_unfinished_folders(const std::string& output_dir) {
  const auto is_there = [&](std::string_view stem, std::string_view suffix) {
    return mode_of(join_path(output_dir, std::string(stem) + std::string(suffix))) != 0;
  };
  // The name without the suffix; empty if it has another one.
  const auto stem_of_folder = [&](const std::string& name, std::string_view suffix) -> std::string {
    if (!name.ends_with(suffix) || !S_ISDIR(mode_of(join_path(output_dir, name)))) return {};
    return name.substr(0, name.size() - suffix.size());
  };
  // What a process was to replace when it was killed. Earlier versions named it as what they removed.
  const auto is_to_be_restored = [&](const std::string& name, std::string_view suffix) {
    const std::string stem = stem_of_folder(name, suffix);
    return !stem.empty() && !is_there(stem, "") &&
           (suffix == kReplacedSuffix || is_there(stem, kPartialSuffix));
  };
  const auto restore = [&](const std::string& name, std::string_view suffix) {
    if (!is_to_be_restored(name, suffix)) return;
    const std::string path = join_path(output_dir, stem_of_folder(name, suffix));
    rename_path(join_path(output_dir, name), path);
    log_message(LogLevel::kWarning, fmt::format("{} was about to be replaced when an earlier training ended; "
                                                "it is kept as it was",
                                                escaped(path)));
  };
  log_file_errors([&] {
    for (const std::string& name : list_folder(output_dir))
      log_file_errors([&] {
        for (const std::string_view suffix : {kReplacedSuffix, kRemovedSuffix}) restore(name, suffix);
      });
    for (const std::string& name : list_folder(output_dir))
      log_file_errors([&] {
        for (const std::string_view suffix : {kPartialSuffix, kReplacedSuffix, kRemovedSuffix}) {
          const bool stays = suffix != kPartialSuffix && is_to_be_restored(name, suffix);
          if (!stem_of_folder(name, suffix).empty() && !stays) remove_folder(join_path(output_dir, name));
        }
      });
  });
}

void remove_temporary_files(const std::string& output_dir) {
  const auto remove_from = [](const std::string& folder) {
    for (const std::string& name : list_folder(folder))
      if (is_temporary_name(name)) {
        const std::string path = join_path(folder, name);
        S_ISDIR(mode_of(path)) ? remove_folder(path) : remove_file(path);
      }
  };
  log_file_errors([&] {
    remove_from(output_dir);
    for (const std::string& name : list_folder(output_dir))
      log_file_errors([&] {
        const std::string path = join_path(output_dir, name);
        if (S_ISDIR(mode_of(path))) remove_from(path);
      });
  });
}

}  // namespace diffusers

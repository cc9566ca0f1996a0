#include "training/checkpoint.h"

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
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/format.h"
#include "core/json.h"
#include "training/sha256.h"

namespace diffusers {
namespace {

constexpr std::string_view kCheckpointPrefix = "checkpoint-";
constexpr std::string_view kPartialSuffix = ".partial";
constexpr std::string_view kRemovedSuffix = ".removed";
constexpr const char* kManifest = "manifest.json";

/// The files below a folder, as paths relative to it, sorted.
void collect_files(const std::string& root, const std::string& relative, std::vector<std::string>& files) {
  for (const std::string& name : list_folder(join_path(root, relative))) {
    const std::string path = join_path(relative, name);
    struct stat status {};
    const std::string full = join_path(root, path);
    require<FileError>(::lstat(full.c_str(), &status) == 0, "cannot look at {}: {}", escaped(full),
                       errno_text(errno));
    if (S_ISDIR(status.st_mode)) {
      collect_files(root, path, files);
    } else if (S_ISREG(status.st_mode)) {
      files.push_back(path);
    } else {
      fail<FileError>("{} is neither a file nor a folder", escaped(full));
    }
  }
}

void sync_file(const std::string& path) {
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  require<FileError>(file.get() >= 0, "cannot open {}: {}", escaped(path), errno_text(errno));
  require<FileError>(::fsync(file.get()) == 0, "cannot sync {} to disk: {}", escaped(path),
                     errno_text(errno));
}

void sync_tree(const std::string& folder) {
  for (const std::string& name : list_folder(folder)) {
    const std::string path = join_path(folder, name);
    folder_exists(path) ? sync_tree(path) : sync_file(path);
  }
  sync_folder(folder);
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

/// N of "checkpoint-N", -1 for any other name.
int64_t step_of(std::string_view name) {
  if (!name.starts_with(kCheckpointPrefix)) return -1;
  name.remove_prefix(kCheckpointPrefix.size());
  int64_t step = -1;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), step);
  // "checkpoint-007" is not a name that this library writes.
  const bool is_whole = error == std::errc() && end == name.data() + name.size() && !name.empty();
  return is_whole && std::to_string(step) == name ? step : -1;
}

/// Swaps two folders in one step. @return false where the file system cannot
bool exchange_paths(const std::string& a, const std::string& b) {
  return ::syscall(SYS_renameat2, AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) == 0;
}

}  // namespace

OutputLock::OutputLock(const std::string& folder)
    : folder_(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  require<FileError>(folder_.get() >= 0, "cannot open the folder {}: {}", escaped(folder), errno_text(errno));
  if (::flock(folder_.get(), LOCK_EX | LOCK_NB) == 0) return;
  require<FileError>(errno != EWOULDBLOCK, "output_dir is {}, and another training writes there",
                     escaped(folder));
  // A network file system without locks: better to train than to refuse.
  warn_once("output_dir cannot be locked (" + errno_text(errno) +
            "); see that no other training writes there");
}

StagedFolder::StagedFolder(std::string path)
    : path_(std::move(path)), stage_(path_ + std::string(kPartialSuffix)) {
  remove_folder(stage_);
  create_folders(stage_);
}

StagedFolder::~StagedFolder() {
  if (is_published_) return;
  try {
    remove_folder(stage_);
  } catch (const Error& error) {
    log_message(LogLevel::kWarning, error.what());
  }
}

void StagedFolder::publish() {
  sync_tree(stage_);
  if (!folder_exists(path_)) {
    rename_path(stage_, path_);
    is_published_ = true;
    return;
  }
  if (exchange_paths(stage_, path_)) {
    sync_folder(parent_folder(path_));
    is_published_ = true;
    remove_folder(stage_);  // which is now the old one
    return;
  }
  const std::string old = path_ + std::string(kRemovedSuffix);
  remove_folder(old);
  rename_path(path_, old);
  rename_path(stage_, path_);
  is_published_ = true;
  remove_folder(old);
}

void write_manifest(const std::string& folder) {
  std::vector<std::string> paths;
  collect_files(folder, "", paths);
  Json files = Json::object();
  for (const std::string& path : paths) {
    const std::string full = join_path(folder, path);
    sync_file(full);
    const InputFile file(full);
    files[path] = {{"size", file.size()}, {"sha256", sha256_of_file(file)}};
  }
  write_file_atomically(join_path(folder, kManifest), dump_json({{"version", 1}, {"files", files}}));
}

void verify_manifest(const std::string& folder) {
  const std::string manifest = join_path(folder, kManifest);
  try {
    const Json json = parse_json(read_text_file(manifest), manifest);
    require<FileError>(json.is_object() && json.value("version", 0) == 1 && json.contains("files") &&
                           json.at("files").is_object() && !json.at("files").empty(),
                       "{} is not a manifest of version 1", escaped(manifest));
    for (const auto& [path, entry] : json.at("files").items()) {
      const std::string full = join_path(folder, path);
      require<FileError>(!path.starts_with('/') && path.find("..") == std::string::npos,
                         "{} names a file outside of the checkpoint: {}", escaped(manifest), escaped(path));
      const InputFile file(full);
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
    if (step_of(name) >= 0 && folder_exists(join_path(output_dir, name))) steps.push_back(step_of(name));
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

void remove_partial_folders(const std::string& output_dir) {
  for (const std::string& name : list_folder(output_dir)) {
    const std::string path = join_path(output_dir, name);
    if ((name.ends_with(kPartialSuffix) || name.ends_with(kRemovedSuffix)) && folder_exists(path))
      remove_folder(path);
  }
}

}  // namespace diffusers

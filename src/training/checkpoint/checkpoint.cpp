#include "training/checkpoint/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <system_error>

#include <diffusers/io/files.h>

#include <sys/stat.h>

#include "io/folders.h"
#include "io/staged_folder.h"

namespace diffusers {
inline namespace internal {
namespace {

constexpr std::string_view kCheckpointPrefix = "checkpoint-";

}  // namespace

int64_t checkpoint_step(std::string_view name) {
  if (!name.starts_with(kCheckpointPrefix)) return -1;
  name.remove_prefix(kCheckpointPrefix.size());
  int64_t step = -1;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), step);
  // The library does not write names such as "checkpoint-007".
  const bool is_whole = error == std::errc() && end == name.data() + name.size() && !name.empty();
  return is_whole && std::to_string(step) == name ? step : -1;
}

std::string checkpoint_path(const std::string& output_dir, int64_t step) {
  return join_path(output_dir, std::string(kCheckpointPrefix) + std::to_string(step));
}

std::vector<int64_t> list_checkpoints(const std::string& output_dir) {
  std::vector<int64_t> steps;
  if (!folder_exists(output_dir)) return steps;
  for (const std::string& name : list_folder(output_dir))
    // A checkpoint that cannot be examined is an error. If it were ignored, the training would restart at 0.
    if (checkpoint_step(name) >= 0 && S_ISDIR(mode_of(join_path(output_dir, name), /*follow_link=*/true)))
      steps.push_back(checkpoint_step(name));
  std::sort(steps.begin(), steps.end());
  return steps;
}

void remove_checkpoint(const std::string& output_dir, int64_t step) {
  remove_folder_at_once(checkpoint_path(output_dir, step));
}

void keep_newest_checkpoints(const std::string& output_dir, int64_t limit, int64_t current_step) {
  std::vector<int64_t> steps = list_checkpoints(output_dir);
  steps.erase(std::upper_bound(steps.begin(), steps.end(), current_step), steps.end());
  for (std::size_t i = 0; i + static_cast<std::size_t>(limit) < steps.size(); ++i)
    remove_checkpoint(output_dir, steps[i]);
}

}  // namespace internal
}  // namespace diffusers

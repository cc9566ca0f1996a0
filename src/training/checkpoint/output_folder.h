#pragma once

// Files of earlier trainings in output_dir: their detection, removal, and move to `abandoned-K/`.

#include <cstdint>
#include <string>
#include <vector>

namespace diffusers {
inline namespace internal {

/// Returns the names of files and folders of an earlier training in output_dir that a new training would
/// overwrite or mix with its own. Empty: there are none.
/// @param model_names folders that the new training writes at the end
std::string earlier_results(const std::string& output_dir, const std::vector<std::string>& model_names);

/// Removes the files of earlier trainings from output_dir, and no others.
/// @param logging_dir folder of the event files in output_dir
/// @param keep_abandoned true keeps the folders `abandoned-K`
void remove_earlier_training(const std::string& output_dir, const std::vector<std::string>& model_names,
                             const std::string& logging_dir, bool keep_abandoned = false);
/// Completes a `remove_earlier_training` that was killed. It must run before checkpoints are listed.
void finish_removing(const std::string& output_dir, const std::vector<std::string>& model_names,
                     const std::string& logging_dir);

/// Moves checkpoints, previews and snapshots of later steps, and a copy of the metrics, to `abandoned-K/`,
/// before a training resumes from `checkpoint-<step>`. The folder has the layout of output_dir. A file lists
/// the moves before the first one. If the process is killed, `finish_setting_aside` completes them.
void set_aside_after(const std::string& output_dir, int64_t step);
/// Completes a `set_aside_after` that was killed. It must run before checkpoints are listed.
void finish_setting_aside(const std::string& output_dir);
/// Returns the path of the newest checkpoint of a name in the folders `abandoned-K`. Empty: there is none.
std::string find_set_aside(const std::string& output_dir, const std::string& name);

/// Removes previews and snapshots of later steps, which the resumed training writes again.
void remove_outputs_after(const std::string& output_dir, int64_t step);

bool is_same_folder(const std::string& a, const std::string& b);

}  // namespace internal
}  // namespace diffusers

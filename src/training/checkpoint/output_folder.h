#pragma once

// What trainings leave in output_dir besides checkpoints, and what becomes of it when another training
// begins there.

#include <cstdint>
#include <string>
#include <vector>

namespace diffusers {
inline namespace internal {

/// Names what an earlier training left in output_dir and a new one would overwrite or mix with; empty:
/// nothing.
/// @param model_names folders that the new training writes in the end
std::string earlier_results(const std::string& output_dir, const std::vector<std::string>& model_names);

/// Removes what trainings wrote into output_dir. Files that no training writes stay.
/// @param logging_dir folder in output_dir for event files
/// @param keep_abandoned leaves the folders `abandoned-K`
void remove_earlier_training(const std::string& output_dir, const std::vector<std::string>& model_names,
                             const std::string& logging_dir, bool keep_abandoned = false);
/// Does what a killed `remove_earlier_training` left to do. To be called before checkpoints are looked for.
void finish_removing(const std::string& output_dir, const std::vector<std::string>& model_names,
                     const std::string& logging_dir);

/// A training goes on from `checkpoint-<step>`: moves the newer checkpoints, with previews and snapshots of
/// later steps and a copy of the metrics, to `abandoned-K/`, a folder of the same layout. A file says what is
/// to be moved before the first one is, so that a process that is killed meanwhile is no harm:
/// `finish_setting_aside` does the rest.
void set_aside_after(const std::string& output_dir, int64_t step);
/// Does what a killed `set_aside_after` left to do. To be called before checkpoints are looked for.
void finish_setting_aside(const std::string& output_dir);
/// The path of a checkpoint that was set aside, the latest one of that name; empty: there is none.
std::string find_set_aside(const std::string& output_dir, const std::string& name);

/// Removes previews and snapshots of later steps, which are trained again.
void remove_outputs_after(const std::string& output_dir, int64_t step);

bool is_same_folder(const std::string& a, const std::string& b);

}  // namespace internal
}  // namespace diffusers

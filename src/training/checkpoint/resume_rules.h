#pragma once

// Options that may change when a training is resumed, and options that may not.

#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace diffusers {
inline namespace internal {

enum class OnResume {
  kCompared,     ///< must equal the value in the checkpoint
  kFree,         ///< may change; the training continues with the new value
  kNoInfluence,  ///< may change; the weights do not depend on it
};

struct ResumeRule {
  std::string_view key;
  OnResume rule = OnResume::kCompared;
  std::string_view reason = {};  ///< empty if it is obvious
};

/// Returns a rule for each field of TrainingConfig, in the order of the fields.
const std::vector<ResumeRule>& resume_rules();

/// Compares the fields of a TrainingConfig whose rule is `kCompared`. A field that one side lacks is not
/// compared: older checkpoints have fewer fields.
/// @param where file of `saved`
/// @throws ConfigError naming the field and both values
void require_same_options(const Json& saved, const Json& ours, std::string_view where);

/// Compares two configs and the objects in them. Keys that begin with an underscore, except `_class_name`,
/// are ignored, and so are options of schedulers that only matter in sampling.
/// @param owner owner of the config, such as "the scheduler"
/// @throws ConfigError naming the key and both values
void require_same_config(const Json& saved, const Json& ours, std::string_view owner, std::string_view where);

/// Moves options of the task, which older checkpoints have among the fields of TrainingConfig, to "options".
/// @param saved_task config of the task in the checkpoint
/// @param saved_fields TrainingConfig of the checkpoint
/// @param our_task config of the task that resumes
/// @return saved_task, with an object "options" if only our_task has one
Json with_moved_options(Json saved_task, const Json& saved_fields, const Json& our_task);

}  // namespace internal
}  // namespace diffusers

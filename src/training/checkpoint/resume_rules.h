#pragma once

// Which options may change when a training is resumed.

#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace diffusers {
inline namespace internal {

enum class OnResume {
  kCompared,     ///< must be as in the checkpoint
  kFree,         ///< may change: the training goes on with the new value
  kNoInfluence,  ///< may change: the weights do not depend on it
};

struct ResumeRule {
  std::string_view key;
  OnResume rule = OnResume::kCompared;
  std::string_view reason = {};  ///< where it is not obvious
};

/// A rule for each field of TrainingConfig, in its order.
const std::vector<ResumeRule>& resume_rules();

/// Compares the fields of a TrainingConfig whose rule is `kCompared`. A field that one side lacks is not
/// compared: older checkpoints have fewer fields.
/// @param where the file that `saved` is from
/// @throws ConfigError naming the field and both values
void require_same_options(const Json& saved, const Json& ours, std::string_view where);

/// Compares two configs, objects in them included, but for keys that begin with an underscore other than
/// `_class_name`, and options of schedulers that matter in sampling alone.
/// @param owner whose config it is, such as "the scheduler"
/// @throws ConfigError naming the key and both values
void require_same_config(const Json& saved, const Json& ours, std::string_view owner, std::string_view where);

/// Fills in the options of a task that an older checkpoint has among the fields of the TrainingConfig.
/// @param saved_task config of the task in the checkpoint
/// @param saved_fields TrainingConfig of the checkpoint
/// @param our_task config of the task that resumes
/// @return saved_task, with an object "options" if only our_task has one
Json with_moved_options(Json saved_task, const Json& saved_fields, const Json& our_task);

}  // namespace internal
}  // namespace diffusers

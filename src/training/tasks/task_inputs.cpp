#include "training/tasks/task_inputs.h"

#include <ATen/ATen.h>

#include "core/json.h"
#include "core/require.h"

namespace diffusers {
inline namespace internal {

void require_divisible_batches(const BatchSplit& split, int64_t cpu_data_parallel) {
  require<ConfigError>(cpu_data_parallel <= 1 || split.obstacle.empty(),
                       "cpu_data_parallel is {}, but {}; expected 0 or 1", cpu_data_parallel, split.obstacle);
}

void require_embeddable_times(const DenoiserInfo& model, const ForwardProcess& process) {
  const std::string_view type = model.time_embedding_type;
  require<ConfigError>(process.log_sigma_reason().empty() || type.empty() || type == "positional",
                       "time_embedding_type of the model is \"{}\", but the timesteps of {} are "
                       "log(sigma) / 4, negative and not whole; expected \"positional\"",
                       type, process.log_sigma_reason());
}

const Tensor& images_of(const Batch& batch, const std::optional<int64_t>& resolution) {
  const Tensor& images = batch.images;
  require<TensorError>(images.defined() && images.dim() == 4 && at::isFloatingType(images.scalar_type()),
                       "the dataset gives images {}, expected a floating tensor [B, C, H, W]",
                       describe(images));
  require<ConfigError>(
      !resolution || (images.size(2) == *resolution && images.size(3) == *resolution),
      "resolution is {}, but the dataset gives images {}; for images of several sizes, such as "
      "aspect-ratio buckets, leave resolution of the TrainingConfig unset",
      resolution.value_or(0), describe(images));
  return images;
}

void refuse_flags(const TrainingConfig& config, std::initializer_list<const char*> names,
                  std::string_view task) {
  const Json given = parse_json(config.to_json(), "the training config");
  const Json defaults = parse_json(TrainingConfig{}.to_json(), "the training config");
  for (const char* name : names)
    require<ConfigError>(given.at(name) == defaults.at(name),
                         "{} is {}, which {} does not use; leave it at its default, {}", name,
                         json_excerpt(given.at(name)), task, json_excerpt(defaults.at(name)));
}

}  // namespace internal
}  // namespace diffusers

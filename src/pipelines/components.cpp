#include "pipelines/components.h"

#include <diffusers/core/error.h>
#include <diffusers/core/tensor.h>
#include <diffusers/io/files.h>

#include "core/json.h"
#include "core/require.h"
#include "io/open_model_file.h"

namespace diffusers {

std::unique_ptr<Scheduler> load_pipeline_scheduler(const std::filesystem::path& folder,
                                                   const std::string& class_name) {
  const std::string scheduler = folder_inside(folder.string(), "scheduler");
  const std::string path = join_path(scheduler, "scheduler_config.json");
  require<FileError>(file_exists(path), "{}: component \"scheduler\" has no scheduler_config.json",
                     folder.string());
  Json config = parse_json(read_model_file(scheduler, base_name(path)), path);
  require<FileError>(config.is_object(), "{}: expected a JSON object", path);
  config["_class_name"] = class_name;
  return Scheduler::from_config(dump_json(config));
}

void call_step_end(const StepEndCallback& callback, int64_t step, const Tensor& timestep, Tensor& sample) {
  if (!callback) return;
  const Tensor before = sample;
  callback(step, timestep, sample);
  require<TensorError>(
      sample.defined() && sample.sizes() == before.sizes() && sample.options().type_equal(before.options()),
      "callback_on_step_end gave {}, expected {}", describe(sample), describe(before));
}

}  // namespace diffusers

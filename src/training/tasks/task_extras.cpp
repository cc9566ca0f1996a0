#include "training/tasks/task_extras.h"

#include <string>

#include <diffusers/io/chart.h>
#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/schedulers/edm_euler_scheduler.h>

#include <ATen/ATen.h>

#include "core/json.h"
#include "io/model_index.h"

namespace diffusers {
inline namespace internal {
namespace {

/// Returns the pipeline of Python that samples from a UNet2DModel with the scheduler.
const char* pipeline_for(const Scheduler& scheduler) {
  if (dynamic_cast<const DDIMScheduler*>(&scheduler) != nullptr) return "DDIMPipeline";
  // The loop of this pipeline scales the model's input and starts from init_noise_sigma, as EDM's schedulers
  // need.
  if (dynamic_cast<const EDMEulerScheduler*>(&scheduler) != nullptr) return "ConsistencyModelPipeline";
  return "DDPMPipeline";
}

ChartSeries share_series(const char* name, const Tensor& values) {
  const Tensor row = values.to(at::kCPU, at::kDouble).contiguous();
  const double* data = row.const_data_ptr<double>();
  ChartSeries line;
  line.name = name;
  line.y.assign(data, data + row.numel());
  return line;
}

}  // namespace

void save_noise_schedule_picture(const ForwardProcess::Shares& shares, const std::filesystem::path& path) {
  ChartOptions options;
  options.title = "Noise schedule";
  options.x_label = "timestep";
  options.y_label = "share in the noisy sample";
  save_line_chart({share_series("signal", shares.signal), share_series("noise", shares.noise)}, path,
                  options);
}

void save_model_index(const NamedModule& model, const Scheduler& scheduler,
                      const std::filesystem::path& folder) {
  const std::string config = model.module->config_json();
  if (config.empty()) return;  // a model that Python does not know
  const std::string model_class =
      parse_json(config, "config_json() of the model").value("_class_name", std::string());
  if (model_class != "UNet2DModel") return;
  const std::string scheduler_class = scheduler.class_name();
  write_model_index({.class_name = pipeline_for(scheduler),
                     .components = {{"scheduler", scheduler_class}, {model.name, model_class}}},
                    folder);
}

}  // namespace internal
}  // namespace diffusers

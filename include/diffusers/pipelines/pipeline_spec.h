#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include <diffusers/schedulers/scheduler.h>

namespace diffusers {

/// A component of a pipeline class.
struct PipelineComponentSpec {
  std::string name;  ///< name in `components()` and of the subfolder, such as "unet"
  /// Accepted classes, such as {"UNet2DModel"}. Empty: any class.
  std::vector<std::string> class_names = {};
  bool is_optional = false;  ///< the component may be absent (Python's `_optional_components`)
};

/// Description of a pipeline class for loading, saving and `from_pipe`.
struct PipelineSpec {
  std::string class_name;                         ///< `_class_name` in model_index.json
  std::vector<PipelineComponentSpec> components;  ///< in the order of the constructor's parameters
  /// Components of Python's class that this library does not run, such as "safety_checker". If a folder has
  /// them, they are not loaded. They are saved as absent.
  std::vector<std::string> ignored_components = {};
  /// Booleans in model_index.json besides the components, with their defaults.
  std::map<std::string, bool> settings = {};
  /// Converts a scheduler that is passed to the pipeline, for example to another class. Null: copies it.
  std::unique_ptr<Scheduler> (*adapt_scheduler)(const Scheduler& scheduler) = nullptr;
};

}  // namespace diffusers

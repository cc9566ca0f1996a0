#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include <diffusers/schedulers/scheduler.h>

namespace diffusers {

/// A component that a pipeline class takes.
struct PipelineComponentSpec {
  std::string name;  ///< name in `components()`, and of the subfolder: "unet"
  /// Accepted classes, such as {"UNet2DModel"}. Empty: any class.
  std::vector<std::string> class_names = {};
  bool is_optional = false;  ///< the pipeline also works without it (Python's `_optional_components`)
};

/// Components of a pipeline class. Loading, saving and `from_pipe` follow it.
struct PipelineSpec {
  std::string class_name;                         ///< `_class_name` in model_index.json
  std::vector<PipelineComponentSpec> components;  ///< in the order of the constructor's parameters
  /// Components that Python's class has and this library does not run, such as "safety_checker". A folder may
  /// have them; they are not loaded, and are saved as absent.
  std::vector<std::string> ignored_components = {};
  /// Booleans that model_index.json keeps besides the components, with their defaults.
  std::map<std::string, bool> settings = {};
  /// Converts every scheduler that the pipeline is given, for example to another class; null: copies it.
  std::unique_ptr<Scheduler> (*adapt_scheduler)(const Scheduler& scheduler) = nullptr;
};

}  // namespace diffusers

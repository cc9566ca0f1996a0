#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/io/model_file.h>

/// A component of a pipeline, or a single model folder or weights file.
struct Component {
  std::string name = {};        ///< such as "unet"; empty for a single model
  std::string class_name = {};  ///< such as "UNet2DModel"; empty if it is not known
  std::string config = {};      ///< text of the config file; empty if there is none
  /// One of the two is set if there are weights.
  std::shared_ptr<diffusers::WeightsReader> weights = nullptr;
  std::shared_ptr<diffusers::SafetensorsFile> file = nullptr;

  bool has_weights() const { return weights != nullptr || file != nullptr; }
  const std::vector<std::string>& tensor_names() const;
  const diffusers::SafetensorsInfo& info(const std::string& tensor) const;
  diffusers::Tensor get(const std::string& tensor) const;
};

/// The findings, in the order in which they are printed.
struct Report {
  std::string title;
  std::vector<Component> components;
  std::vector<std::string> details;   ///< the parts of an adapter
  std::vector<std::string> errors;    ///< problems that make loading fail
  std::vector<std::string> warnings;  ///< problems that loading does not report

  const Component* find(const std::string& name) const;
};

/// Opens a pipeline folder, a model or scheduler folder, or a safetensors file, without reading the weights.
/// A file that cannot be opened is an error in the report.
Report open_checkpoint(const std::string& path, const std::string& variant);

/// Largest number of names in a list of the report.
inline constexpr std::size_t kMostNamesListed = 12;
/// Returns a prefix such as "unet: "; empty for a single model.
std::string label(const Component& component);
/// Converts a tensor to a dtype that supports arithmetic, such as eight-bit floats to float32; nullopt if
/// that is not possible.
std::optional<diffusers::Tensor> computable(const diffusers::Tensor& tensor);
bool is_scheduler(const Component& component);
/// Returns the config as JSON text, "{}" if there is none. The config of a scheduler has all its defaults.
/// @throws diffusers::Error if the config is invalid
std::string complete_config(const Component& component);

/// Compares the tensors of each component with those of its class.
void check_tensors(Report& report);
/// Warns about configs that can be loaded but are probably wrong (config_checks.cpp).
void check_configs(Report& report);
/// Reads the tensors one after another and warns about NaN and infinity.
void check_values(Report& report);

/// Formats the list of components with their classes, parameters and dtypes.
std::string describe_components(const Report& report);
/// Formats the differences in configs, names, shapes, dtypes and values, one on each line.
std::string describe_differences(const Report& report, const Report& other, bool with_values);

#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/io/model_file.h>

/// What stands in one folder of a pipeline, or in a folder or file by itself.
struct Component {
  std::string name = {};        ///< "unet"; empty for a model by itself
  std::string class_name = {};  ///< "UNet2DModel"; empty if nothing says it
  std::string config = {};      ///< the text of its config file; empty if there is none
  /// One of the two is set where there are weights.
  std::shared_ptr<diffusers::WeightsReader> weights = nullptr;
  std::shared_ptr<diffusers::SafetensorsFile> file = nullptr;

  bool has_weights() const { return weights != nullptr || file != nullptr; }
  const std::vector<std::string>& tensor_names() const;
  const diffusers::SafetensorsInfo& info(const std::string& tensor) const;
  diffusers::Tensor get(const std::string& tensor) const;
};

/// What was found, in the order in which it is printed.
struct Report {
  std::string title;
  std::vector<Component> components;
  std::vector<std::string> errors;    ///< a load would fail
  std::vector<std::string> warnings;  ///< a load succeeds, and what it gives is doubtful

  const Component* find(const std::string& name) const;
};

/// Opens a pipeline folder, a model or scheduler folder, or a safetensors file; reads no weights. What cannot
/// be opened is an error of the report.
Report open_checkpoint(const std::string& path, const std::string& variant);

/// No list in the report shows more names than this.
inline constexpr std::size_t kMostNamesListed = 12;
/// "unet: ", or nothing for a model by itself.
std::string label(const Component& component);
/// What can be computed with: eight-bit floats and packed numbers become ordinary ones, or nothing.
std::optional<diffusers::Tensor> computable(const diffusers::Tensor& tensor);
bool is_scheduler(const Component& component);
/// The config as JSON text, "{}" if there is none; that of a scheduler with all its defaults.
/// @throws diffusers::Error
std::string complete_config(const Component& component);

/// Compares the tensors of each component with what its class expects.
void check_tensors(Report& report);
/// Warns of configs that a load accepts and that are mistakes more often than not (config_checks.cpp).
void check_configs(Report& report);
/// Reads the tensors one after the other and warns of NaN and infinity.
void check_values(Report& report);

/// "components", "parameters", ... as the program prints them.
std::string describe_components(const Report& report);
/// The differences, a line each, of configs, of names, shapes and dtypes, and of values.
std::string describe_differences(const Report& report, const Report& other, bool with_values);

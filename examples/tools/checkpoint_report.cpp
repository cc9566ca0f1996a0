#include "checkpoint_report.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <iomanip>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include <diffusers/core/error.h>
#include <diffusers/core/tensor.h>
#include <diffusers/io/files.h>
#include <diffusers/schedulers/scheduler.h>

#include <ATen/ATen.h>

#include "adapter_report.h"
#include "concat.h"
#include "json_config.h"
#include "known_models.h"

using namespace diffusers;

namespace {

std::string listed(const std::vector<std::string>& names) {
  std::string text = joined(names, kMostNamesListed);
  if (names.size() > kMostNamesListed) text += concat(" and ", names.size() - kMostNamesListed, " more");
  return text;
}

Json config_of(const Component& component) {
  if (component.config.empty()) return Json::object();
  try {
    Json json = parse_json(component.config, component.name);
    return json.is_object() ? json : Json::object();
  } catch (const Error&) {
    return Json::object();  // open_checkpoint has reported the error
  }
}

/// Returns _class_name of diffusers' configs, or architectures[0] of transformers' configs.
std::string class_of(const Json& config) {
  const auto name = config.find("_class_name");
  if (name != config.end() && name->is_string()) return name->get<std::string>();
  const auto architectures = config.find("architectures");
  if (architectures != config.end() && architectures->is_array() && !architectures->empty() &&
      architectures->front().is_string())
    return architectures->front().get<std::string>();
  return "";
}

/// Returns the folder of a component. A link that leads out of the pipeline's folder is an error, because a
/// pipeline does not load it.
std::string component_folder(const std::string& folder, const std::string& name) {
  std::string path = join_path(folder, name);
  if (!folder_exists(path)) return path;
  const std::filesystem::path target = std::filesystem::canonical(path);
  const std::filesystem::path relative = target.lexically_relative(std::filesystem::canonical(folder));
  if (relative.empty() || *relative.begin() == "..")
    throw FileError(path + ": a link leads out of the folder " + folder + ", to " + target.string());
  return path;
}

void open_weights(Report& report, Component& component, const std::string& folder,
                  const std::string& basename, const std::string& variant) {
  try {
    component.weights = std::make_shared<WeightsReader>(folder, basename, variant);
  } catch (const Error& error) {
    report.errors.push_back(label(component) + error.what());
  }
}

void open_component(Report& report, Component component, const std::string& folder,
                    const std::string& variant) {
  const bool scheduler = is_scheduler(component) || (component.class_name.empty() &&
                                                     file_exists(join_path(folder, "scheduler_config.json")));
  const std::string config_path = join_path(folder, scheduler ? "scheduler_config.json" : "config.json");
  try {
    if (file_exists(config_path)) {
      component.config = read_model_file(folder, base_name(config_path));
      const Json config = parse_json(component.config, config_path);
      if (component.class_name.empty() && config.is_object()) component.class_name = class_of(config);
    }
    if (scheduler) {
      if (component.config.empty()) throw FileError(config_path + ": there is no such file");
      (void)complete_config(component);
    } else if (component.config.empty() && is_known_model(component.class_name)) {
      throw FileError(config_path + ": there is no such file");
    } else if (const auto plan = component.config.empty()
                                     ? std::nullopt
                                     : plan_model(component.class_name, component.config)) {
      open_weights(report, component, folder, plan->basename, variant);
    } else {
      // The class is unknown, so the existing files are listed.
      const auto names = list_folder(folder);
      for (const std::string basename : {"diffusion_pytorch_model", "model"}) {
        const bool is_there = std::any_of(names.begin(), names.end(), [&](const std::string& name) {
          return name.starts_with(basename + ".") && name.find(".safetensors") != std::string::npos;
        });
        if (is_there && !component.has_weights()) open_weights(report, component, folder, basename, variant);
      }
      if (component.class_name == "CLIPTokenizer") {
        for (const std::string name : {"vocab.json", "merges.txt"})
          if (!file_exists(join_path(folder, name)))
            report.errors.push_back(concat(label(component), "there is no ", join_path(folder, name)));
      } else if (component.has_weights() && component.class_name.empty()) {
        report.warnings.push_back(label(component) + "no config.json says which class the weights belong to");
      } else if (!component.class_name.empty()) {
        report.warnings.push_back(
            concat(label(component), component.class_name,
                   " is no class of this library; its tensors are listed, not checked"));
      }
    }
  } catch (const Error& error) {
    report.errors.push_back(label(component) + error.what());
  }
  report.components.push_back(std::move(component));
}

void open_pipeline(Report& report, const std::string& folder, const std::string& variant) {
  const std::string path = join_path(folder, "model_index.json");
  const Json index = parse_json(read_model_file(folder, base_name(path)), path);
  if (!index.is_object()) throw FileError(path + ": expected a JSON object");
  report.title = concat("pipeline ", (class_of(index).empty() ? "of no known class" : class_of(index)));
  for (const auto& [name, entry] : index.items()) {
    if (name.starts_with('_') || !entry.is_array()) continue;
    if (entry.size() == 2 && entry[0].is_null() && entry[1].is_null()) continue;  // intentionally absent
    if (entry.size() != 2 || !entry[0].is_string() || !entry[1].is_string() || !is_plain_basename(name)) {
      report.errors.push_back(concat(path, ": component ", Json(name).dump(), " is ", json_excerpt(entry),
                                     ", expected [library, class]"));
      continue;
    }
    Component component{.name = name, .class_name = entry[1].get<std::string>()};
    std::string inner;
    try {
      inner = component_folder(folder, name);
    } catch (const Error& error) {
      report.errors.push_back(concat(name, ": ", error.what()));
      report.components.push_back(std::move(component));
      continue;
    }
    if (folder_exists(inner)) {
      open_component(report, std::move(component), inner, variant);
    } else {
      report.errors.push_back(concat(name, ": there is no folder ", inner));
      report.components.push_back(std::move(component));
    }
  }
}

void open_file(Report& report, const std::string& path) {
  report.title = "safetensors file";
  Component component;
  component.file = std::make_shared<SafetensorsFile>(path);
  if (auto adapter = describe_adapter(*component.file)) {
    report.title = adapter->title;
    report.details = std::move(adapter->lines);
    for (const auto& error : adapter->errors) report.errors.push_back(path + ": " + error);
  }
  report.components.push_back(std::move(component));
}

std::string bytes_text(double bytes) {
  const char* unit = "B";
  for (const char* next : {"kB", "MB", "GB", "TB"}) {
    if (bytes < 1000) break;
    bytes /= 1000;
    unit = next;
  }
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.*f %s", unit[0] == 'B' ? 0 : 1, bytes, unit);
  return text.data();
}

std::string with_commas(int64_t number) {
  std::string text = std::to_string(number);
  for (auto at = static_cast<std::ptrdiff_t>(text.size()) - 3; at > 0; at -= 3)
    text.insert(static_cast<std::size_t>(at), ",");
  return text;
}

int64_t numel_of(const SafetensorsInfo& info) {
  int64_t count = 1;
  for (const int64_t size : info.shape) count *= size;
  return count;
}

}  // namespace

const std::vector<std::string>& Component::tensor_names() const {
  return weights != nullptr ? weights->names() : file->names();
}
const SafetensorsInfo& Component::info(const std::string& tensor) const {
  return weights != nullptr ? weights->info(tensor) : file->info(tensor);
}
Tensor Component::get(const std::string& tensor) const {
  return weights != nullptr ? weights->get(tensor) : file->get(tensor);
}

const Component* Report::find(const std::string& name) const {
  for (const auto& component : components)
    if (component.name == name) return &component;
  return nullptr;
}

std::string label(const Component& component) { return component.name.empty() ? "" : component.name + ": "; }

std::optional<Tensor> computable(const Tensor& tensor) {
  if (tensor.scalar_type() == at::kFloat4_e2m1fn_x2 || tensor.scalar_type() == at::kFloat8_e8m0fnu)
    return std::nullopt;
  if (tensor.is_complex()) return at::view_as_real(tensor);
  if (at::isFloatingType(tensor.scalar_type()) && tensor.element_size() == 1) return tensor.to(at::kFloat);
  return tensor;
}

bool is_scheduler(const Component& component) { return component.class_name.ends_with("Scheduler"); }

std::string complete_config(const Component& component) {
  if (!is_scheduler(component)) return component.config.empty() ? "{}" : component.config;
  Json config = config_of(component);
  // The class in the index of a pipeline has priority over the class in the config.
  config["_class_name"] = component.class_name;
  return Scheduler::from_config(write_json(config))->config_json();
}

Report open_checkpoint(const std::string& path, const std::string& variant) {
  Report report;
  try {
    if (file_exists(path)) {
      open_file(report, path);
    } else if (!folder_exists(path)) {
      throw FileError(path + ": there is no such file or folder");
    } else if (file_exists(join_path(path, "model_index.json"))) {
      open_pipeline(report, path, variant);
    } else if (const std::string adapter = adapter_file_in(path);
               !adapter.empty() && !file_exists(join_path(path, "config.json"))) {
      open_file(report, join_path(path, adapter));
    } else {
      report.title = "folder";
      open_component(report, {}, path, variant);
      const Component& component = report.components.back();
      if (component.config.empty() && !component.has_weights() && report.errors.empty())
        report.errors.push_back(
            path + ": there is no model_index.json, config.json, scheduler_config.json or weights file");
    }
  } catch (const Error& error) {
    report.errors.emplace_back(error.what());
  }
  return report;
}

void check_tensors(Report& report) {
  for (const auto& component : report.components) {
    if (!component.has_weights() || component.config.empty()) continue;
    std::optional<ModelPlan> plan;
    try {
      plan = plan_model(component.class_name, component.config);
    } catch (const Error& error) {
      report.errors.push_back(label(component) + error.what());
    }
    if (!plan) continue;
    std::map<std::string, std::string> sources;  // maps names in the model to names in the file
    std::vector<std::string> extra;
    std::vector<std::string> renamed;
    const std::set<std::string> names(component.tensor_names().begin(), component.tensor_names().end());
    for (const auto& name : names) {
      std::string target = plan->name_in_model != nullptr ? plan->name_in_model(name) : name;
      const auto old = plan->renamed.find(name);
      if (old != plan->renamed.end() && !names.contains(old->second)) target = old->second;
      if (target.empty()) continue;
      if (!plan->shapes.contains(target)) {
        extra.push_back(name);
        continue;
      }
      if (target != name) renamed.push_back(concat(name, " -> ", target));
      if (target == name || !names.contains(target)) sources.emplace(target, name);
    }
    std::vector<std::string> missing;
    std::vector<std::string> mismatched;
    for (const auto& [name, shape] : plan->shapes) {
      const auto source = sources.find(name);
      if (source == sources.end()) {
        missing.push_back(name);
        continue;
      }
      std::vector<int64_t> found = component.info(source->second).shape;
      const bool is_old = plan->renamed.contains(source->second);
      // Old attention projections may be 1x1 convolutions.
      if (is_old && found.size() == 4 && shape.size() == 2 && found[2] == 1 && found[3] == 1) found.resize(2);
      if (found != shape)
        mismatched.push_back(
            concat(source->second, " is ", shape_string(found), ", expected ", shape_string(shape)));
    }
    const auto tell = [&](std::vector<std::string>& lines, const char* what,
                          const std::vector<std::string>& which) {
      if (!which.empty())
        lines.push_back(concat(label(component), which.size(), " ", what, ": ", listed(which)));
    };
    tell(report.errors, "tensors are missing", missing);
    tell(report.errors, "tensors have another shape", mismatched);
    tell(report.warnings, "tensors belong to no part of the model", extra);
    tell(report.warnings, "tensors have the names of an old version", renamed);
  }
}

void check_values(Report& report) {
  for (const auto& component : report.components) {
    if (!component.has_weights()) continue;
    std::vector<std::string> bad;
    try {
      for (const auto& name : component.tensor_names()) {
        if (!at::isFloatingType(component.info(name).dtype) && !at::isComplexType(component.info(name).dtype))
          continue;
        const auto values = computable(component.get(name));
        if (!values || values->numel() == 0) continue;
        const int64_t finite = at::isfinite(*values).sum().item<int64_t>();
        if (finite < values->numel())
          bad.push_back(concat(name, " (", values->numel() - finite, " of ", values->numel(), ")"));
      }
    } catch (const Error& error) {
      report.errors.push_back(label(component) + error.what());
    }
    if (!bad.empty())
      report.warnings.push_back(
          concat(label(component), bad.size(), " tensors hold NaN or infinity: ", listed(bad)));
  }
}

std::string describe_components(const Report& report) {
  std::string text;
  for (const auto& component : report.components) {
    const std::string name = component.name.empty() ? "(weights)" : component.name;
    text += concat("  ", std::left, std::setw(18),
                   is_scheduler(component) && component.name.empty() ? "(scheduler)" : name, " ",
                   component.class_name.empty() ? "?" : component.class_name);
    if (component.has_weights()) {
      std::map<std::string, std::size_t> dtypes;
      int64_t count = 0;
      double bytes = 0;
      for (const auto& tensor : component.tensor_names()) {
        const auto& info = component.info(tensor);
        ++dtypes[dtype_name(info.dtype)];
        count += numel_of(info);
        bytes += static_cast<double>(info.nbytes);
      }
      text += concat(", ", with_commas(count), " parameters in ", component.tensor_names().size(),
                     " tensors, ", bytes_text(bytes));
      for (const auto& [dtype, number] : dtypes)
        text += dtypes.size() == 1 ? concat(", ", dtype) : concat(", ", number, " x ", dtype);
      if (component.weights != nullptr && component.weights->is_sharded()) text += ", in shards";
    }
    text += "\n";
  }
  return text;
}

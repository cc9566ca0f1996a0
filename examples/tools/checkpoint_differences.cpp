#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/tensor.h>

#include <ATen/ATen.h>

#include "checkpoint_report.h"
#include "concat.h"
#include "json_config.h"

using namespace diffusers;

namespace {

Json keys_of(const Component& component) {
  try {
    return parse_json(component.config.empty() ? "{}" : component.config, component.name);
  } catch (const Error&) {
    return Json::object();  // open_checkpoint has reported the error
  }
}

std::string short_number(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.6g", value);
  return text.data();
}

/// Returns the largest |a - b|, without large temporaries. A NaN on one side only counts as infinity.
double largest_difference(const Tensor& left, const Tensor& right) {
  constexpr int64_t kPiece = int64_t{1} << 22;
  const auto a = computable(left);
  const auto b = computable(right);
  if (!a || !b)
    return left.nbytes() == right.nbytes() && at::equal(left.view(at::kByte), right.view(at::kByte)) ? 0
                                                                                                     : NAN;
  const Tensor x = a->reshape({-1});
  const Tensor y = b->reshape({-1});
  double largest = 0;
  for (int64_t begin = 0; begin < x.numel(); begin += kPiece) {
    const int64_t count = std::min(kPiece, x.numel() - begin);
    const Tensor p = x.narrow(0, begin, count).to(at::kDouble);
    const Tensor q = y.narrow(0, begin, count).to(at::kDouble);
    const Tensor same = p.eq(q).logical_or_(p.isnan().logical_and_(q.isnan()));
    const Tensor off = p.sub(q).abs_().masked_fill_(same, 0.0).nan_to_num_(HUGE_VAL, HUGE_VAL, HUGE_VAL);
    largest = std::max(largest, off.max().item<double>());
  }
  return largest;
}

void describe_config_differences(const Component& left, const Component& right, std::string& text) {
  const Json a = keys_of(left);
  const Json b = keys_of(right);
  std::set<std::string> keys;
  for (const Json* json : {&a, &b})
    for (const auto& [key, value] : json->items()) keys.insert(key);
  for (const auto& key : keys) {
    if (key == "_diffusers_version" || key == "_name_or_path") continue;
    const auto shown = [&](const Json& json) {
      return json.contains(key) ? json_excerpt(json[key]) : "not there";
    };
    if (shown(a) != shown(b))
      text += concat("  ", label(left), "config ", key, ": ", shown(a), ", there ", shown(b), "\n");
  }
}

void describe_tensor_differences(const Component& left, const Component& right, bool with_values,
                                 std::string& text) {
  const std::set<std::string> there(right.tensor_names().begin(), right.tensor_names().end());
  std::set<std::string> here;
  std::vector<std::pair<double, std::string>> changed;
  std::size_t compared = 0;
  for (const auto& name : left.tensor_names()) {
    here.insert(name);
    if (!there.contains(name)) {
      text += concat("  ", label(left), "only here: ", name, " ", shape_string(left.info(name).shape), "\n");
      continue;
    }
    const auto& a = left.info(name);
    const auto& b = right.info(name);
    if (a.shape != b.shape)
      text += concat("  ", label(left), name, ": ", shape_string(a.shape), ", there ", shape_string(b.shape),
                     "\n");
    if (a.dtype != b.dtype)
      text +=
          concat("  ", label(left), name, ": ", dtype_name(a.dtype), ", there ", dtype_name(b.dtype), "\n");
    if (a.shape != b.shape || !with_values) continue;
    ++compared;
    const double difference = largest_difference(left.get(name), right.get(name));
    if (!(difference == 0)) changed.emplace_back(difference, name);
  }
  for (const auto& name : right.tensor_names())
    if (!here.contains(name))
      text +=
          concat("  ", label(left), "only there: ", name, " ", shape_string(right.info(name).shape), "\n");
  std::stable_sort(changed.begin(), changed.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  for (std::size_t i = 0; i < std::min(changed.size(), kMostNamesListed); ++i)
    text += concat("  ", label(left), changed[i].second, ": differs by at most ",
                   short_number(changed[i].first), "\n");
  if (with_values)
    text += concat("  ", label(left), changed.size(), " of ", compared,
                   " tensors of the same shape have other values\n");
}

}  // namespace

std::string describe_differences(const Report& report, const Report& other, bool with_values) {
  std::string text;
  const bool are_single = report.components.size() == 1 && other.components.size() == 1;
  for (const auto& component : report.components) {
    const Component* there = are_single ? &other.components.front() : other.find(component.name);
    if (there == nullptr) {
      text += concat("  only here: component ", component.name, "\n");
      continue;
    }
    if (component.class_name != there->class_name)
      text +=
          concat("  ", label(component), "class ", component.class_name, ", there ", there->class_name, "\n");
    describe_config_differences(component, *there, text);
    if (component.has_weights() != there->has_weights())
      text +=
          concat("  ", label(component), "weights only ", (component.has_weights() ? "here" : "there"), "\n");
    if (component.has_weights() && there->has_weights())
      describe_tensor_differences(component, *there, with_values, text);
  }
  for (const auto& component : other.components)
    if (!are_single && report.find(component.name) == nullptr)
      text += concat("  only there: component ", component.name, "\n");
  return text;
}

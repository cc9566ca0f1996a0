// The post-hoc averages of a training. power_ema_solve.cpp combines their snapshots.

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include <diffusers/io/files.h>
#include <diffusers/io/safetensors.h>
#include <diffusers/training/post_hoc_ema.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "core/require.h"

namespace diffusers {
namespace {

const Tensor& find_averaged(const TensorMap& parameters, const std::string& name, const Tensor& average) {
  require<TensorError>(parameters.contains(name), "PostHocEma: the averaged parameter \"{}\" is missing",
                       name);
  const Tensor& parameter = parameters.at(name);
  require<TensorError>(parameter.defined() && parameter.sizes() == average.sizes(),
                       "PostHocEma: \"{}\" is {}, its average is {}", name, describe(parameter),
                       describe(average));
  return parameter;
}

}  // namespace

PostHocEma::PostHocEma(const TensorMap& named_parameters, const PostHocEmaConfig& config) : config_(config) {
  require<ConfigError>(!config_.sigma_rels.empty(), "sigma_rels is empty, expected one width or more");
  for (const double sigma_rel : config_.sigma_rels) {
    gammas_.push_back(sigma_rel_to_gamma(sigma_rel));
    for (std::size_t i = 0; i + 1 < gammas_.size(); ++i)
      require<ConfigError>(config_.sigma_rels[i] != sigma_rel, "sigma_rels holds {} twice", sigma_rel);
    TensorMap average;
    for (const auto& [name, parameter] : named_parameters)
      if (parameter.requires_grad()) average.insert(name, parameter.detach().clone());
    averages_.push_back(std::move(average));
  }
  require<ConfigError>(!averages_.front().empty(), "PostHocEma: there are no trained parameters to average");
}

void PostHocEma::step(const TensorMap& named_parameters) {
  const at::NoGradGuard no_grad;
  std::vector<Tensor> values;
  for (const auto& [name, average] : averages_.front())
    values.push_back(
        find_averaged(named_parameters, name, average).detach().to(average.device(), average.scalar_type()));
  ++step_;
  for (std::size_t i = 0; i < averages_.size(); ++i) {
    std::vector<Tensor> averages;
    for (const auto& entry : averages_[i]) averages.push_back(entry.second);
    const double beta = std::pow(1 - 1 / static_cast<double>(step_), gammas_[i] + 1);
    at::_foreach_lerp_(averages, values, 1 - beta);
  }
}

void PostHocEma::copy_to(const TensorMap& named_parameters, std::size_t index) const {
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : average(index))
    find_averaged(named_parameters, name, tensor).detach().copy_(tensor);
}

const TensorMap& PostHocEma::average(std::size_t index) const {
  require(index < averages_.size(), "PostHocEma: there is no average {}, only {}", index, averages_.size());
  return averages_[index];
}

std::vector<std::string> PostHocEma::save_snapshots(const std::filesystem::path& folder,
                                                    at::ScalarType dtype) const {
  require<ConfigError>(dtype == at::kHalf || dtype == at::kFloat || dtype == at::kDouble,
                       "the dtype of a snapshot is {}, expected float16, float32 or float64",
                       dtype_name(dtype));
  require(step_ > 0, "PostHocEma::save_snapshots: nothing was averaged yet");
  create_folders(folder.string());
  std::vector<std::string> paths;
  for (std::size_t i = 0; i < averages_.size(); ++i) {
    TensorMap converted;
    for (const auto& [name, tensor] : averages_[i]) {
      const Tensor value = tensor.to(dtype);
      require<TensorError>(value.isfinite().all().item<bool>(),
                           "the average of \"{}\" at step {} is not finite in {}", name, step_,
                           dtype_name(dtype));
      converted.insert(name, value);
    }
    const double sigma_rel = config_.sigma_rels[i];
    paths.push_back(join_path(folder.string(), fmt::format("power_ema-{}-{}.safetensors", step_, sigma_rel)));
    save_safetensors(
        converted, paths.back(),
        {{"format", "pt"}, {"step", fmt::format("{}", step_)}, {"sigma_rel", fmt::format("{}", sigma_rel)}});
  }
  return paths;
}

TensorMap PostHocEma::state_dict() const {
  TensorMap state{{"step", at::full({}, step_, at::kLong)},
                  {"sigma_rels", at::tensor(config_.sigma_rels, at::kDouble)}};
  for (std::size_t i = 0; i < averages_.size(); ++i)
    for (const auto& [name, tensor] : averages_[i]) state.insert(fmt::format("{}.{}", i, name), tensor);
  return state;
}

void PostHocEma::load_state_dict(const TensorMap& state) {
  const at::NoGradGuard no_grad;
  const TensorMap own = state_dict();
  for (const auto& [name, tensor] : own) {
    require<TensorError>(state.contains(name), "PostHocEma: the state lacks \"{}\"", name);
    const Tensor& saved = state.at(name);
    const bool fits = name == "sigma_rels" || (saved.defined() && saved.sizes() == tensor.sizes());
    require<TensorError>(fits && saved.scalar_type() == tensor.scalar_type(),
                         "PostHocEma: \"{}\" is {}, expected {}", name, describe(saved), describe(tensor));
  }
  require<TensorError>(state.size() == own.size(), "PostHocEma: the state has {} tensors, expected {}",
                       state.size(), own.size());
  const Tensor sigma_rels = state.at("sigma_rels").to(at::kCPU, at::kDouble);
  require<ConfigError>(at::equal(sigma_rels, own.at("sigma_rels")),
                       "sigma_rels is {}, but the state was made with others ({} of them)",
                       config_.sigma_rels, sigma_rels.numel());
  const auto step = state.at("step").item<int64_t>();
  require<TensorError>(step >= 0, "PostHocEma: the step of the state is {}, expected 0 or more", step);
  for (std::size_t i = 0; i < averages_.size(); ++i)
    for (const auto& [name, tensor] : averages_[i]) tensor.copy_(state.at(fmt::format("{}.{}", i, name)));
  step_ = step;
}

}  // namespace diffusers

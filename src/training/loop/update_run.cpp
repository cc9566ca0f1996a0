#include "training/loop/update_run.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include <diffusers/core/logging.h>
#include <diffusers/io/files.h>
#include <diffusers/training/gradient_clipping.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "io/posix_file.h"
#include "training/checkpoint/checkpoint_files.h"
#include "training/loop/fused_backward.h"
#include "training/loop/trained_parameters.h"
#include "training/optim/clip_factor.h"

namespace diffusers {
inline namespace internal {
namespace {

// Size of the device's learning rate table. After this number of steps without logging the host reads one
// number.
constexpr int64_t kMostUnsettledSteps = 65536;

constexpr std::size_t kFixedLogTensors = 7;

/// @param counter the 0-dim tensor that receives the value
/// @param most the largest possible value; nullopt: any
void load_counter(const TensorMap& tensors, const char* name, const Tensor& counter,
                  std::optional<int64_t> most = std::nullopt) {
  require<TensorError>(tensors.contains(name), "there is no \"{}\"", name);
  const Tensor& saved = tensors.at(name);
  require<TensorError>(saved.dim() == 0 && at::isFloatingType(saved.scalar_type()),
                       "\"{}\" is {}, expected one floating number", name, describe(saved));
  const auto value = saved.item<double>();
  require<TensorError>(std::isfinite(value), "\"{}\" is {}, expected a finite number", name, value);
  require<TensorError>(!most || (value >= 0 && value <= static_cast<double>(*most)),
                       "\"{}\" is {}, expected 0 to {}, the steps that were done", name, value,
                       most.value_or(0));
  counter.copy_(saved);
}

void warn_of_long_warmup(const std::string& schedule, int64_t warmup_steps, int64_t steps,
                         double learning_rate) {
  if (warmup_steps < steps || schedule == "constant" || schedule == "piecewise_constant") return;
  log_message(
      LogLevel::kWarning,
      fmt::format("lr_warmup_steps is {}, and the training has {} steps: the learning rate never reaches {}",
                  warmup_steps, steps, learning_rate));
}

/// An update that begins after the end, such as a discriminator of a short training, never runs.
void warn_of_late_start(const Update& update, int64_t total_steps) {
  if (update.start_step < total_steps) return;
  log_message(LogLevel::kWarning,
              fmt::format("the update \"{}\" begins at step {}, and the training has {} steps: it never runs",
                          update.name, update.start_step, total_steps));
}

}  // namespace

OptimizerConfig config_of_optimizer(const Update& update, const TrainingConfig& config) {
  return update.optimizer ? *update.optimizer : optimizer_config(config);
}

Json optimizer_json(const OptimizerConfig& config) {
  return {{"type", std::string(config.type.name())},
          {"lr", config.lr},
          {"beta1", config.beta1},
          {"beta2", config.beta2},
          {"eps", config.eps},
          {"weight_decay", config.weight_decay},
          {"amsgrad", config.amsgrad},
          {"momentum", config.momentum},
          {"dampening", config.dampening},
          {"nesterov", config.nesterov},
          {"beta2_decay", config.beta2_decay},
          {"eps1", config.eps1 ? Json(*config.eps1) : Json()},
          {"eps2", config.eps2},
          {"d", config.d}};
}

std::vector<Update> checked_updates(const Task& task, const TrainingConfig& config) {
  const std::vector<NamedModule>& trained = task.trained();
  require<ConfigError>(!trained.empty(), "the task has no module to train");
  std::vector<Update> updates = task.updates(config);
  require<ConfigError>(!updates.empty(), "the task has no update, expected one or more");
  std::set<std::string> names;
  std::map<std::string, std::string> update_of;  // by module
  for (Update& update : updates) {
    require<ConfigError>(updates.size() == 1 || !update.name.empty(),
                         "the task has {} updates, one of them without a name", updates.size());
    require<ConfigError>(update.name.empty() || is_plain_basename(update.name),
                         "the name of an update is \"{}\", expected a plain file name", update.name);
    require<ConfigError>(names.insert(update.name).second, "the task has two updates of the name \"{}\"",
                         update.name);
    require<ConfigError>(update.start_step >= 0, "start_step of the update \"{}\" is {}, expected 0 or more",
                         update.name, update.start_step);
    if (update.modules.empty())
      for (const NamedModule& named : trained) update.modules.push_back(named.name);
    for (const std::string& module : update.modules) {
      require<ConfigError>(std::any_of(trained.begin(), trained.end(),
                                       [&](const NamedModule& named) { return named.name == module; }),
                           "the update \"{}\" names the module \"{}\", which the task does not train",
                           update.name, module);
      const auto [place, is_new] = update_of.emplace(module, update.name);
      require<ConfigError>(is_new, "the module \"{}\" belongs to the updates \"{}\" and \"{}\", expected one",
                           module, place->second, update.name);
    }
  }
  for (const NamedModule& named : trained)
    require<ConfigError>(update_of.contains(named.name), "the module \"{}\" belongs to no update",
                         named.name);
  require_fused_backward(updates, config);
  return updates;
}

UpdateRun::UpdateRun(const Task& task, const TrainingConfig& config, Update update, int64_t total_steps,
                     at::Device device, at::ScalarType dtype)
    : update_(std::move(update)),
      steps_in_backward_(config.fused_backward_pass),
      max_grad_norm_(update_.max_grad_norm.value_or(config.max_grad_norm)),
      learning_rate_(config_of_optimizer(update_, config).lr),
      dtype_(dtype),
      device_(device) {
  for (const auto& entry : named_parameters(task, update_.modules))
    if (entry.second.requires_grad()) parameters_.push_back(entry.second);
  const int64_t steps = std::max<int64_t>(1, total_steps - update_.start_step);
  const std::string schedule = update_.lr_scheduler.value_or(config.lr_scheduler);
  const int64_t warmup_steps = update_.lr_warmup_steps.value_or(config.lr_warmup_steps);
  lr_schedule_ = get_scheduler(schedule, {.step_rules = config.lr_step_rules,
                                          .num_warmup_steps = warmup_steps,
                                          .num_training_steps = steps,
                                          .num_cycles = config.lr_num_cycles,
                                          .power = config.lr_power,
                                          .lr_init = learning_rate_});
  warn_of_late_start(update_, total_steps);
  warn_of_long_warmup(schedule, warmup_steps, steps, learning_rate_);
  if (!device_.is_cpu() && schedule != "constant")
    device_lr_.emplace(lr_schedule_, std::min(config.logging_steps, kMostUnsettledSteps), device_);
  if (config.mixed_precision == MixedPrecision::kFp16) scaler_.emplace(device_);
  optimizer_ = std::make_shared<Optimizer>(parameter_groups(task, config, update_.modules),
                                           config_of_optimizer(update_, config));

  const Tensor zero = at::zeros({}, at::TensorOptions().dtype(at::kFloat).device(device_));
  for (Tensor* counter :
       {&counters_.loss_sum, &counters_.finite_steps, &counters_.nonfinite_in_row, &counters_.worst_row,
        &counters_.skipped_steps, &counters_.grad_norm, &counters_.last_skipped})
    *counter = zero.clone();
  counters_.loss_sum = counters_.loss_sum.to(dtype_);
}

Tensor UpdateRun::fused_gradient_norm() {
  if (sharding_ != nullptr) return {};  // the kernels step all parameters
  if (!fused_ && FusedAdamW::can_serve(*optimizer_)) fused_.emplace(*optimizer_);
  if (!fused_ || !fused_->begin()) return {};
  if (device_.is_cpu()) {
    // The operations are those of a step without the kernels, so that the bits of both are equal.
    const Tensor overflow = scaler_ ? scaler_->unscale_(parameters_).squeeze() : at::zeros({});
    const Tensor norm = get_total_grad_norm(parameters_);
    const Tensor factor = max_grad_norm_ > 0 ? clip_factor(norm, max_grad_norm_) : at::ones({});
    return at::stack({norm, overflow, factor});
  }
  return fused_->gradient_norm(scaler_ ? scaler_->get_scale() : Tensor(), max_grad_norm_);
}

Tensor UpdateRun::clip_gradients() const {
  if (sharding_ != nullptr && sharding_->divides_gradients())
    return sharding_->clip_grad_norm(parameters_, max_grad_norm_);
  return max_grad_norm_ > 0 ? clip_grad_norm_(parameters_, max_grad_norm_) : get_total_grad_norm(parameters_);
}

void UpdateRun::backward(const Tensor& loss, int64_t global_step) {
  if (steps_in_backward_) return step_in_backward(loss, global_step);
  scaled(loss).backward();
}

void UpdateRun::step_in_backward(const Tensor& loss, int64_t global_step) {
  const Factor factor = next_factor(global_step, counters_.skipped_steps);
  const FusedBackward fused(parameters_, loss.detach().isfinite().logical_not().to(at::kFloat),
                            [&](const Tensor& parameter, const Tensor& found_inf) {
                              if (factor.tensor.defined()) {
                                optimizer_->step_parameter_with_device_factor(parameter, factor.tensor,
                                                                              found_inf);
                              } else {
                                optimizer_->step_parameter(parameter, factor.value, found_inf);
                              }
                            });
  loss.backward();
  fused_norms_ = fused.norms();
  fused_total_norm_ = fused.total_norm();
  fused_is_nonfinite_ = fused.is_nonfinite();
}

Tensor UpdateRun::gradient_or_norm(const Tensor& parameter) const {
  if (!steps_in_backward_) return parameter.grad();
  for (std::size_t i = 0; i < fused_norms_.size(); ++i)
    if (parameters_[i].is_same(parameter)) return fused_norms_[i];
  return {};
}

UpdateRun::Outcome UpdateRun::inspect(const Tensor& loss, const std::vector<NamedValue>& values) {
  Outcome outcome;
  outcome.is_nonfinite = loss.isfinite().logical_not().to(at::kFloat);
  outcome.is_skipped = outcome.is_nonfinite;
  if (!steps_in_backward_) fused_outcome_ = fused_gradient_norm();
  if (scaler_) {
    Tensor overflow = fused_outcome_.defined() ? fused_outcome_[1] : scaler_->unscale_(parameters_).squeeze();
    if (sharding_ != nullptr && sharding_->divides_gradients()) overflow = sharding_->any_process(overflow);
    outcome.is_skipped = at::maximum(outcome.is_skipped, overflow);
    // The scaler mends an overflow by halving the scale. At a scale of 1 there is nothing left to halve: the
    // gradients themselves are not finite.
    const Tensor is_exhausted = (scaler_->get_scale().squeeze() <= 1).to(at::kFloat);
    outcome.is_nonfinite = at::maximum(outcome.is_nonfinite, overflow * is_exhausted);
  }
  const Tensor grad_norm = steps_in_backward_         ? fused_total_norm_
                           : fused_outcome_.defined() ? fused_outcome_[0]
                                                      : clip_gradients();
  if (steps_in_backward_) {
    outcome.is_nonfinite = at::maximum(outcome.is_nonfinite, fused_is_nonfinite_);
    outcome.is_skipped = outcome.is_nonfinite;
  } else if (!scaler_) {
    outcome.is_nonfinite =
        at::maximum(outcome.is_nonfinite, grad_norm.isfinite().logical_not().to(at::kFloat));
    outcome.is_skipped = outcome.is_nonfinite;
  }

  const Tensor is_bad = outcome.is_nonfinite > 0;
  counters_.loss_sum += at::where(is_bad, at::zeros_like(loss), loss);
  counters_.finite_steps += 1 - outcome.is_nonfinite;
  counters_.nonfinite_in_row = (counters_.nonfinite_in_row + 1) * outcome.is_nonfinite;
  counters_.worst_row = at::maximum(counters_.worst_row, counters_.nonfinite_in_row);
  counters_.skipped_steps += outcome.is_skipped;
  counters_.last_skipped = outcome.is_skipped;
  counters_.grad_norm = grad_norm.to(at::kFloat);
  if (value_sums_.empty())
    for (const NamedValue& value : values)
      value_sums_.push_back({value.name, at::zeros({}, loss.options().requires_grad(false))});
  // A task may give no values in some steps.
  for (std::size_t i = 0; i < value_sums_.size() && !values.empty(); ++i)
    value_sums_[i].value += at::where(is_bad, at::zeros_like(values[i].value), values[i].value);
  return outcome;
}

/// The learning rate is that of the number of steps that were taken before; only a CPU can be asked for it.
UpdateRun::Factor UpdateRun::next_factor(int64_t global_step, const Tensor& skipped) {
  const int64_t steps = own_steps(global_step);
  if (device_lr_) {
    if (device_lr_->needs_settling(steps)) device_lr_->settle(steps, skipped.item<int64_t>());
    return {1.0, device_lr_->factor(steps, skipped)};
  }
  const int64_t count = device_.is_cpu() ? skipped.item<int64_t>() : 0;
  return {lr_schedule_(steps - count), {}};
}

bool UpdateRun::step(int64_t global_step, const Tensor& is_skipped, const FusedAverage* average) {
  if (steps_in_backward_) return false;
  const Tensor skip = is_skipped.view({1});
  const Factor factor = next_factor(global_step, counters_.skipped_steps - is_skipped);
  bool is_averaged = false;
  // The optimizer passes over parameters without a gradient, and makes no state for them.
  if (sharding_ != nullptr) sharding_->drop_other_gradients(parameters_);
  if (uses_kernels()) {
    const Tensor device_factor = factor.tensor.defined() ? factor.tensor.squeeze() : Tensor();
    is_averaged = fused_->step(factor.value, device_factor, fused_outcome_, skip, average);
  } else if (factor.tensor.defined()) {
    optimizer_->step_with_device_factor(factor.tensor, skip);
  } else {
    optimizer_->step(factor.value, skip);
  }
  fused_outcome_ = Tensor();
  optimizer_->zero_grad();
  if (sharding_ != nullptr) sharding_->share_parameters(parameters_);
  if (scaler_) scaler_->update(skip);
  return is_averaged;
}

void UpdateRun::settle(int64_t global_step) {
  if (device_lr_ && runs_at(global_step)) device_lr_->settle(own_steps(global_step), skipped_steps_);
}

std::vector<Tensor> UpdateRun::log_tensors() const {
  std::vector<Tensor> tensors{counters_.loss_sum,
                              counters_.finite_steps.to(dtype_),
                              counters_.worst_row.to(dtype_),
                              counters_.skipped_steps.to(dtype_),
                              counters_.grad_norm.to(dtype_),
                              counters_.nonfinite_in_row.to(dtype_),
                              counters_.last_skipped.to(dtype_)};
  for (const NamedValue& sum : value_sums_) tensors.push_back(sum.value.to(dtype_));
  return tensors;
}

void UpdateRun::join_values(const ProcessGroup& group) {
  if (!group.is_connected()) return;
  Json names = Json::array();
  for (const NamedValue& sum : value_sums_) names.push_back(sum.name);
  // A process that has had no samples yet knows no names.
  Json known = Json::array();
  for (const std::string& text : group.all_gather(names.dump())) {
    const Json others = parse_json(text, "the names of the values of another process");
    if (known.empty()) known = others;
    require<TensorError>(others.empty() || others == known,
                         "the named values of the task's loss differ between the processes: {} and {}",
                         json_excerpt(known), json_excerpt(others));
  }
  if (known.empty()) return;
  if (value_sums_.empty())
    for (const Json& name : known)
      value_sums_.push_back({name.get<std::string>(), at::zeros_like(counters_.loss_sum)});
  std::vector<Tensor> sums;
  for (const NamedValue& sum : value_sums_) sums.push_back(sum.value.to(at::kDouble));
  const Tensor total = at::stack(sums);
  group.all_reduce(total);
  for (std::size_t i = 0; i < value_sums_.size(); ++i)
    value_sums_[i].value.copy_(total[static_cast<int64_t>(i)]);
  if (!group.is_main()) clear_values();
}

void UpdateRun::clear_values() {
  for (NamedValue& sum : value_sums_) sum.value.zero_();
}

UpdateRun::Log UpdateRun::log(const double* values, int64_t global_step) {
  Log result;
  const double finite_steps = values[1];
  if (finite_steps > 0) result.loss = values[0] / finite_steps;
  result.worst_row = static_cast<int64_t>(values[2]);
  const auto skipped = static_cast<int64_t>(values[3]);
  result.newly_skipped = skipped - skipped_steps_;
  skipped_steps_ = skipped;
  result.grad_norm = values[4];
  result.row = static_cast<int64_t>(values[5]);
  // Of the last step: the schedule counts the steps that were taken before it.
  const int64_t skipped_before = skipped_steps_ - static_cast<int64_t>(values[6]);
  result.lr =
      learning_rate_ * lr_schedule_(std::max<int64_t>(0, own_steps(global_step) - 1 - skipped_before));
  if (finite_steps > 0)
    for (std::size_t i = 0; i < value_sums_.size(); ++i)
      result.values.emplace_back(value_sums_[i].name, values[kFixedLogTensors + i] / finite_steps);
  counters_.loss_sum.zero_();
  counters_.finite_steps.zero_();
  for (NamedValue& sum : value_sums_) sum.value.zero_();
  return result;
}

TensorMap UpdateRun::state() const {
  TensorMap tensors;
  tensors.insert("loss_sum", counters_.loss_sum);
  tensors.insert("finite_steps", counters_.finite_steps);
  tensors.insert("nonfinite_in_row", counters_.nonfinite_in_row);
  tensors.insert("worst_row", counters_.worst_row);
  tensors.insert("skipped_steps", counters_.skipped_steps);
  for (const NamedValue& sum : value_sums_) tensors.insert(kValuePrefix + sum.name, sum.value);
  if (scaler_) insert_with_prefix(tensors, kScalerPrefix, scaler_->state_dict());
  return tensors;
}

void UpdateRun::load_state(const TensorMap& state, int64_t most) {
  load_counter(state, "loss_sum", counters_.loss_sum);
  load_counter(state, "finite_steps", counters_.finite_steps, most);
  load_counter(state, "nonfinite_in_row", counters_.nonfinite_in_row, most);
  load_counter(state, "worst_row", counters_.worst_row, most);
  load_counter(state, "skipped_steps", counters_.skipped_steps, most);
  skipped_steps_ = static_cast<int64_t>(state.at("skipped_steps").item<double>());
  value_sums_.clear();
  for (const auto& entry : with_prefix(state, kValuePrefix)) {
    value_sums_.push_back({entry.first, at::zeros_like(counters_.loss_sum)});
    load_counter(state, (kValuePrefix + entry.first).c_str(), value_sums_.back().value);
  }
  if (scaler_) scaler_->load_state_dict(with_prefix(state, kScalerPrefix));
}

Json UpdateRun::config_json() const {
  Json json = {{"name", update_.name}, {"modules", update_.modules}, {"start_step", update_.start_step}};
  if (update_.optimizer) json["optimizer"] = optimizer_json(*update_.optimizer);
  if (update_.lr_scheduler) json["lr_scheduler"] = *update_.lr_scheduler;
  if (update_.lr_warmup_steps) json["lr_warmup_steps"] = *update_.lr_warmup_steps;
  if (update_.max_grad_norm) json["max_grad_norm"] = *update_.max_grad_norm;
  return json;
}

OnlyUpdate::OnlyUpdate(const std::vector<UpdateRun>& updates, std::size_t index) {
  for (std::size_t i = 0; i < updates.size(); ++i) {
    if (i == index) continue;
    for (const Tensor& parameter : updates[i].parameters()) {
      stopped_.push_back(parameter);
      stopped_.back().requires_grad_(false);
    }
  }
}

OnlyUpdate::~OnlyUpdate() {
  for (Tensor& parameter : stopped_) parameter.requires_grad_(true);
}

}  // namespace internal
}  // namespace diffusers

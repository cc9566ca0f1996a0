#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <map>
#include <numbers>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/training/lr_scheduler.h>
#include <diffusers/training/optimizer.h>

#include <ATen/ATen.h>

#include "core/require.h"

namespace diffusers {
namespace {

constexpr std::array<std::string_view, 7> kScheduleNames{"linear",
                                                         "cosine",
                                                         "cosine_with_restarts",
                                                         "polynomial",
                                                         "constant",
                                                         "constant_with_warmup",
                                                         "piecewise_constant"};
/// The final learning rate of polynomial. Python's `get_scheduler` has no argument for it.
constexpr double kPolynomialEnd = 1e-7;
/// The initial learning rate of polynomial without an optimizer.
constexpr double kPolynomialStart = 1e-3;

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (std::size_t at = text.find(separator); at != std::string_view::npos; at = text.find(separator)) {
    parts.push_back(text.substr(0, at));
    text.remove_prefix(at + 1);
  }
  parts.push_back(text);
  return parts;
}

template <class Number>
Number parse_rule(std::string_view text, std::string_view rules) {
  const auto is_space = [](char c) { return c == ' ' || (c >= '\t' && c <= '\r'); };
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  if (text.starts_with('+')) text.remove_prefix(1);
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  require<ConfigError>(error == std::errc() && end == text.data() + text.size() && !text.empty(),
                       "step_rules is \"{}\": \"{}\" is not a number; expected \"FACTOR:STEP,...,FACTOR\"",
                       rules, text);
  return number;
}

LRSchedule piecewise_constant(const std::string& rules) {
  require<ConfigError>(!rules.empty(),
                       "step_rules is empty, but lr_scheduler \"piecewise_constant\" needs it");
  const std::vector<std::string_view> parts = split(rules, ',');
  std::map<int64_t, double> factors;
  for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
    const std::vector<std::string_view> rule = split(parts[i], ':');
    require<ConfigError>(rule.size() == 2, "step_rules is \"{}\": \"{}\" is not \"FACTOR:STEP\"", rules,
                         parts[i]);
    factors[parse_rule<int64_t>(rule[1], rules)] = parse_rule<double>(rule[0], rules);
  }
  const auto last = parse_rule<double>(parts.back(), rules);
  return [factors = std::move(factors), last](int64_t step) {
    const auto rule = factors.upper_bound(step);
    return rule == factors.end() ? last : rule->second;
  };
}

/// Returns a schedule that rises from 0 until step `warmup` and continues with `then`.
template <class Then>
LRSchedule after_warmup(int64_t warmup, Then then) {
  return [warmup, then = std::move(then)](int64_t step) -> double {
    if (step < warmup) return static_cast<double>(step) / static_cast<double>(std::max<int64_t>(1, warmup));
    return then(step);
  };
}

}  // namespace

LRSchedule get_scheduler(std::string_view name, const LRSchedulerOptions& options) {
  require<ConfigError>(std::find(kScheduleNames.begin(), kScheduleNames.end(), name) != kScheduleNames.end(),
                       "lr_scheduler is \"{}\", expected one of: {}", name, fmt::join(kScheduleNames, ", "));
  if (name == "constant") return [](int64_t) { return 1.0; };
  if (name == "piecewise_constant") return piecewise_constant(options.step_rules);

  require<ConfigError>(options.num_warmup_steps.has_value(),
                       "num_warmup_steps is missing, but lr_scheduler \"{}\" needs it", name);
  const int64_t warmup = *options.num_warmup_steps;
  require<ConfigError>(warmup >= 0, "num_warmup_steps is {}, expected 0 or more", warmup);
  if (name == "constant_with_warmup") return after_warmup(warmup, [](int64_t) { return 1.0; });

  require<ConfigError>(options.num_training_steps.has_value(),
                       "num_training_steps is missing, but lr_scheduler \"{}\" needs it", name);
  const int64_t total = *options.num_training_steps;
  require<ConfigError>(total >= 0, "num_training_steps is {}, expected 0 or more", total);

  const auto decay_steps = static_cast<double>(std::max<int64_t>(1, total - warmup));
  const auto progress = [=](int64_t step) { return static_cast<double>(step - warmup) / decay_steps; };
  if (name == "linear")
    return after_warmup(
        warmup, [=](int64_t step) { return std::max(0.0, static_cast<double>(total - step) / decay_steps); });
  if (name == "cosine")
    return after_warmup(warmup, [=](int64_t step) {
      return std::max(0.0, 0.5 * (1.0 + std::cos(std::numbers::pi * 0.5 * 2.0 * progress(step))));
    });
  if (name == "cosine_with_restarts")
    return after_warmup(warmup, [=, cycles = static_cast<double>(options.num_cycles)](int64_t step) {
      if (progress(step) >= 1.0) return 0.0;
      const double turns = cycles * progress(step);
      const double in_cycle = turns - std::floor(turns);  // Python's %, for negative numbers too
      return std::max(0.0, 0.5 * (1.0 + std::cos(std::numbers::pi * in_cycle)));
    });

  // polynomial
  const double lr_init = options.lr_init.value_or(kPolynomialStart);
  require<ConfigError>(lr_init > kPolynomialEnd,
                       "learning_rate is {}, expected more than {}, where lr_scheduler "
                       "\"polynomial\" ends",
                       lr_init, kPolynomialEnd);
  require<ConfigError>(total != warmup,
                       "num_training_steps is {}, the same as num_warmup_steps: lr_scheduler "
                       "\"polynomial\" has no steps to decay over",
                       total);
  return after_warmup(warmup, [=, power = options.power](int64_t step) {
    if (step > total) return kPolynomialEnd / lr_init;
    const double remaining = 1 - static_cast<double>(step - warmup) / static_cast<double>(total - warmup);
    return ((lr_init - kPolynomialEnd) * std::pow(remaining, power) + kPolynomialEnd) / lr_init;
  });
}

LRScheduler::LRScheduler(Optimizer& optimizer, LRSchedule schedule)
    : optimizer_(&optimizer), schedule_(std::move(schedule)) {
  require<ConfigError>(schedule_ != nullptr, "LRScheduler: the schedule is empty");
  for (std::size_t group = 0; group < optimizer.param_groups().size(); ++group)
    base_lrs_.push_back(optimizer.lr(group));
  set_learning_rates();
}

void LRScheduler::step() {
  ++last_epoch_;
  set_learning_rates();
}

void LRScheduler::set_learning_rates() {
  const double factor = schedule_(last_epoch_);
  last_lr_.clear();
  for (std::size_t group = 0; group < base_lrs_.size(); ++group) {
    last_lr_.push_back(base_lrs_[group] * factor);
    optimizer_->set_lr(last_lr_.back(), group);
  }
}

TensorMap LRScheduler::state_dict() const {
  return {{"last_epoch", at::full({}, last_epoch_, at::kLong)},
          {"base_lrs", at::tensor(base_lrs_, at::kDouble)}};
}

void LRScheduler::load_state_dict(const TensorMap& state) {
  for (const auto& [name, own] : state_dict()) {
    require<TensorError>(state.contains(name), "LRScheduler: the state lacks \"{}\"", name);
    const Tensor& saved = state.at(name);
    require<TensorError>(
        saved.defined() && saved.sizes() == own.sizes() && saved.scalar_type() == own.scalar_type(),
        "LRScheduler: \"{}\" is {}, expected {}", name, describe(saved), describe(own));
  }
  const auto last_epoch = state.at("last_epoch").item<int64_t>();
  require<TensorError>(last_epoch >= 0, "LRScheduler: \"last_epoch\" is {}, expected 0 or more", last_epoch);
  const Tensor base_lrs = state.at("base_lrs").to(at::kCPU).contiguous();
  const double* values = base_lrs.const_data_ptr<double>();
  const std::vector<double> loaded(values, values + base_lrs.numel());
  for (const double lr : loaded)
    require<TensorError>(std::isfinite(lr) && lr >= 0,
                         "LRScheduler: \"base_lrs\" holds {}, expected finite numbers of at least 0", lr);
  base_lrs_ = loaded;
  last_epoch_ = last_epoch;
  set_learning_rates();
}

LRScheduler get_scheduler(std::string_view name, Optimizer& optimizer, const LRSchedulerOptions& options) {
  const double lr = optimizer.config().lr;
  require<ConfigError>(
      !options.lr_init || *options.lr_init == lr,
      "lr_init is {}, but the learning rate of the optimizer is {}; leave lr_init out to use the optimizer's",
      options.lr_init.value_or(0), lr);
  LRSchedulerOptions of_optimizer = options;
  of_optimizer.lr_init = lr;
  return {optimizer, get_scheduler(name, of_optimizer)};
}

}  // namespace diffusers

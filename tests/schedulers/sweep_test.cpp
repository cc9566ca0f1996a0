// Runs every class with combinations of the options that change its path, for many step counts, with the
// exact denoiser of a Gaussian as the model. A run must end after the expected number of steps with finite
// values, or be refused before its first step with a documented reason. A sample of the combinations is run.
// The environment variable DIFFUSERS_SWEEP sets another number of combinations for each class, or "all".

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <numeric>
#include <set>

#include <diffusers/schedulers/repaint_scheduler.h>
#include <diffusers/schedulers/score_sde_ve_scheduler.h>

#include "support.h"
#include "sweep_table.h"

namespace diffusers::test {
namespace {

constexpr std::array<int64_t, 17> kSweepCounts{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 20, 25, 50, 999, 1000};
constexpr double kSweepMean = 0.7;
constexpr double kSweepDeviation = 0.6;

struct SweepLevel {
  double alpha;
  double sigma;
};

/// The ideal model of N(m, s^2). Its output is a x + b, where a and b depend on the timestep.
class SweepModel {
 public:
  SweepModel(const Scheduler& scheduler, const Json& config)
      : name_(scheduler.class_name()),
        type_(name_ == "ScoreSdeVeScheduler" ? "score" : scheduler.prediction_type_name()),
        flow_(config.value("use_flow_sigmas", false) || name_.starts_with("FlowMatch")),
        inverted_(config.value("invert_sigmas", false)),
        edm_(name_.starts_with("EDM")),
        continuous_(config.value("timestep_type", "") == "continuous" && type_ == "v_prediction") {
    if (flow_ || edm_ || name_ == "IPNDMScheduler" || name_.starts_with("CM") ||
        name_ == "ScoreSdeVeScheduler")
      return;
    const Tensor abar = scheduler.alphas_cumprod().to(at::kDouble).contiguous();
    abar_.assign(abar.const_data_ptr<double>(), abar.const_data_ptr<double>() + abar.numel());
  }

  Tensor operator()(const Tensor& input, double t) const {
    if (name_.starts_with("CM")) {  // the end of the probability flow, preconditioned with sigma_data = 0.5
      const double sigma = std::exp(t / 250);
      const double above = sigma - 0.002;
      const double scale = std::hypot(sigma, 0.5);
      const double c_skip = 0.25 / (above * above + 0.25);
      const double c_out = above * 0.5 / scale;
      const double gain = kSweepDeviation / std::hypot(kSweepDeviation, sigma);
      if (c_out < 1e-6) return at::zeros_like(input);  // at sigma_min the sample is the end of the flow
      return at::add(input * ((gain - c_skip) * scale / c_out),
                     at::scalar_tensor(kSweepMean * (1 - gain) / c_out, at::kFloat));
    }
    if (edm_) {  // preconditioned with sigma_data = 0.5
      const double sigma = std::exp(4 * t);
      const double total = std::hypot(sigma, 0.5);
      const auto [gain, rest] = x0({1, sigma});
      const double sign = type_ == "epsilon" ? 1 : -1;
      const double c_out = sign * sigma * 0.5 / total;
      return at::add(input * ((gain - 0.25 / (total * total)) * total / c_out),
                     at::scalar_tensor(rest / c_out, at::kFloat));
    }
    const SweepLevel at = level(t);
    const auto [x0_gain, x0_rest] = x0(at);
    const double variance = at.alpha * at.alpha * kSweepDeviation * kSweepDeviation + at.sigma * at.sigma;
    const double eps_gain = at.sigma / variance;
    const double eps_rest = -eps_gain * at.alpha * kSweepMean;
    double gain = eps_gain;
    double rest = eps_rest;
    if (type_ == "sample" || type_ == "original_sample") {
      gain = x0_gain;
      rest = x0_rest;
    } else if (type_ == "v_prediction") {
      gain = at.alpha * eps_gain - at.sigma * x0_gain;
      rest = at.alpha * eps_rest - at.sigma * x0_rest;
    } else if (flow_ && type_ != "epsilon") {
      gain = eps_gain - x0_gain;
      rest = eps_rest - x0_rest;
    }
    return at::add(input * gain, at::scalar_tensor(rest, at::kFloat));
  }

 private:
  /// E[x_0 | x_t] = gain x_t + rest
  static std::pair<double, double> x0(const SweepLevel& at) {
    const double s2 = kSweepDeviation * kSweepDeviation;
    const double gain = at.alpha * s2 / (at.alpha * at.alpha * s2 + at.sigma * at.sigma);
    return {gain, kSweepMean * (1 - gain * at.alpha)};
  }

  SweepLevel level(double t) const {
    if (flow_) {
      const double sigma = std::clamp(inverted_ ? 1 - t / 1000 : t / 1000, 0.0, 1.0);
      return {1 - sigma, sigma};
    }
    if (name_ == "IPNDMScheduler") return {std::cos(t * M_PI / 2), std::sin(t * M_PI / 2)};
    if (continuous_) {
      const double sigma = std::exp(4 * t);
      return {1 / std::hypot(1, sigma), sigma / std::hypot(1, sigma)};
    }
    // Between training timesteps the levels are linear in log sigma, as in the schedulers.
    const double last = static_cast<double>(abar_.size() - 1);
    const double place = std::clamp(t, 0.0, last);
    const auto low = static_cast<std::size_t>(place);
    const double weight = place - static_cast<double>(low);
    if (weight == 0 || abar_[low + 1] == 0) return {std::sqrt(abar_[low]), std::sqrt(1 - abar_[low])};
    const auto log_sigma = [](double abar) { return 0.5 * std::log((1 - abar) / abar); };
    const double sigma = std::exp((1 - weight) * log_sigma(abar_[low]) + weight * log_sigma(abar_[low + 1]));
    return {1 / std::hypot(1, sigma), sigma / std::hypot(1, sigma)};
  }

  std::string name_;
  std::string type_;
  bool flow_;
  bool inverted_;
  bool edm_;
  bool continuous_;
  std::vector<double> abar_;
};

/// Returns the expected number of timesteps after set_timesteps(n).
int64_t promised_steps(const std::string& name, const Json& config, int64_t n, const Scheduler& scheduler) {
  if (name.starts_with("Heun") || name.starts_with("KDPM2") || name == "FlowMatchHeunDiscreteScheduler" ||
      name == "DPMSolverSDEScheduler")
    return 2 * n - 1;
  if (name == "PNDMScheduler") return config.value("skip_prk_steps", false) ? n + (n > 1 ? 1 : 0) : n + 9;
  if (name == "RePaintScheduler") return n + (n > 10 ? (n - 10 + 9) / 10 * 180 : 0);
  // Levels below lambda_min_clipped are not visited.
  bool spread = false;
  for (const char* key : {"use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas",
                          "use_flow_sigmas"})
    spread = spread || config.value(key, false);
  if (config.contains("lambda_min_clipped") && config.value("timestep_spacing", "") == "trailing" &&
      !spread) {
    const Tensor abar = scheduler.alphas_cumprod();
    const Tensor lambda = 0.5 * (abar / (1 - abar)).log();
    const auto last = static_cast<double>((lambda >= -5.1).sum().item<int64_t>());
    int64_t count = 0;
    while (count < n &&
           std::nearbyint(last - static_cast<double>(count) * 1000 / static_cast<double>(n)) >= 1)
      ++count;
    return count;
  }
  return n;
}

struct SweepOutcome {
  bool refused = false;
  std::string problem;  // empty: no error
};

class SweepRun {
 public:
  SweepRun(const SweepClass& each, const Json& config, int64_t n) : each_(each), n_(n) {
    config_ = {{"_class_name", each.name}};
    for (const auto& [key, value] : config.items()) {
      if (key.starts_with("step.")) {
        step_[key.substr(5)] = value;
      } else if (key.starts_with("set.")) {
        set_[key.substr(4)] = value;
      } else {
        config_[key] = value;
      }
    }
  }

  SweepOutcome operator()(uint64_t seed) const {
    std::unique_ptr<Scheduler> scheduler;
    try {
      scheduler = Scheduler::from_config(dump_json(config_));
      scheduler->set_timesteps(n_, set_timesteps_options(set_));
    } catch (const ConfigError& error) {
      return refusal(error.what());
    } catch (const std::exception& error) {
      return {.problem = std::string("set_timesteps throws ") + error.what()};
    }
    const Timesteps timesteps = scheduler->timesteps();
    const int64_t count = timesteps.size(0);
    const int64_t promised = promised_steps(each_.name, config_, n_, *scheduler);
    if (count != promised)
      return {.problem = std::to_string(count) + " timesteps, promised " + std::to_string(promised)};
    if (!timesteps.isfinite().all().item<bool>()) return {.problem = "a timestep is not finite"};
    Tensor x;
    int64_t i = 0;
    try {
      x = run(*scheduler, timesteps, seed, i);
    } catch (const ConfigError& error) {
      if (i == 0) return refusal(error.what());  // some options are checked in the first step
      return {.problem = "step " + std::to_string(i) + " throws " + error.what()};
    } catch (const std::exception& error) {
      return {.problem = "step " + std::to_string(i) + " throws " + error.what()};
    }
    if (!x.isfinite().all().item<bool>()) return {.problem = "the result is not finite"};
    return {};
  }

  std::string describe() const {
    return config_.dump() + step_.dump() + set_.dump() + " n = " + std::to_string(n_);
  }

 private:
  SweepOutcome refusal(const std::string& message) const {
    for (const std::string& known : each_.refusals)
      if (message.find(known) != std::string::npos) return {.refused = true, .problem = {}};
    return {.refused = true, .problem = "refused without a documented reason: " + message};
  }

  Tensor run(Scheduler& scheduler, const Timesteps& timesteps, uint64_t seed, int64_t& i) const {
    const Generator generator = make_generator(seed);
    StepOptions options = step_options(step_);
    options.generator = generator;
    const SweepModel model(scheduler, config_);
    const bool upwards = each_.name.find("Inverse") != std::string::npos;
    Tensor x = randn_tensor({1, 2, 2, 2}, generator);
    x = upwards ? kSweepMean + kSweepDeviation * x : x * scheduler.init_noise_sigma();
    auto* sde = dynamic_cast<ScoreSdeVeScheduler*>(&scheduler);
    if (sde != nullptr) {
      sde->set_sigmas(n_);
      x = x * config_.value("sigma_max", 1348.0);
    }
    auto* repaint = dynamic_cast<RePaintScheduler*>(&scheduler);
    const Tensor mask = at::ones({1, 2, 2, 2}).slice(3, 0, 1);
    // The solvers support a learned variance only with epsilon.
    const bool wide = config_.value("variance_type", "").starts_with("learned") &&
                      (each_.name == "DDPMScheduler" || each_.name == "UnCLIPScheduler" ||
                       config_["prediction_type"] == "epsilon");
    for (const Tensor t : timesteps) {
      const double time = t.item().toDouble();
      if (sde != nullptr) {
        const double sigma = sde->sigmas()[i].item<double>();
        const auto score = [&](const Tensor& at) {
          return (at - kSweepMean) * (-1 / (kSweepDeviation * kSweepDeviation + sigma * sigma));
        };
        x = sde->step_correct(score(x), x, options).prev_sample;
        x = sde->step_pred(score(x), t, x, options).prev_sample;
      } else {
        Tensor output = model(scheduler.scale_model_input(x, t), time);
        if (wide) output = at::cat({output, at::full_like(output, 0.3)}, 1);
        x = repaint != nullptr ? repaint->step(output, t, x, x, mask, options).prev_sample
                               : scheduler.step(output, t, x, options).prev_sample;
      }
      ++i;
    }
    return x;
  }

  const SweepClass& each_;
  int64_t n_;
  Json config_;
  Json step_ = Json::object();
  Json set_ = Json::object();
};

class SchedulerSweep : public testing::TestWithParam<SweepClass> {};

TEST_P(SchedulerSweep, VariesOrNamesEveryConfigKey) {
  const SweepClass& each = GetParam();
  std::set<std::string> listed(each.fixed.begin(), each.fixed.end());
  for (const SweepAxis& axis : each.axes)
    for (const Json& value : axis)
      for (const auto& item : value.items()) listed.insert(item.key());
  const Json config =
      parse_json(Scheduler::from_config(dump_json({{"_class_name", each.name}}))->config_json(), "config");
  for (const auto& item : config.items()) {
    if (item.key().starts_with("_")) continue;
    EXPECT_EQ(listed.erase(item.key()), 1u)
        << each.name << " has the config key \"" << item.key() << "\", which sweep_table.h does not list";
  }
  for (const std::string& key : listed)
    EXPECT_TRUE(key.starts_with("step.") || key.starts_with("set.")) << "no config key: " << key;
}

TEST(SchedulerSweepTable, HoldsEveryClass) {
  std::set<std::string> listed;
  for (const SweepClass& each : sweep_classes()) listed.insert(each.name);
  for (const Json& each : parse_json(load_golden("schedulers.safetensors").metadata.at("classes"), "classes"))
    EXPECT_EQ(listed.count(each["class"].get<std::string>()), 1u) << each["class"];
}

TEST_P(SchedulerSweep, EndsFiniteAfterThePromisedStepsOrIsRefused) {
  const SweepClass& each = GetParam();
  int64_t total = static_cast<int64_t>(kSweepCounts.size());
  for (const SweepAxis& axis : each.axes) total *= static_cast<int64_t>(axis.size());
  const char* setting = std::getenv("DIFFUSERS_SWEEP");
  const bool all = setting != nullptr && std::string_view(setting) == "all";
  const int64_t wanted = setting == nullptr ? each.sample : std::atoll(setting);
  const int64_t count = all ? total : std::min(wanted, total);
  // A stride by the golden ratio selects the combinations evenly, each once.
  int64_t stride = std::max<int64_t>(static_cast<int64_t>(static_cast<double>(total) * 0.6180339887), 1);
  while (std::gcd(stride, total) != 1) ++stride;

  const auto begin = std::chrono::steady_clock::now();
  int64_t finished = 0;
  int64_t refused = 0;
  int64_t left_out = 0;
  std::map<std::string, std::pair<int64_t, std::string>> problems;
  for (int64_t k = 0; k < count; ++k) {
    int64_t rest = count == total ? k : k * stride % total;
    const int64_t n =
        kSweepCounts[static_cast<std::size_t>(rest % static_cast<int64_t>(kSweepCounts.size()))];
    if (!all && n > 50 && k % 16 != 0) {  // a sample contains few long runs
      ++left_out;
      continue;
    }
    rest /= static_cast<int64_t>(kSweepCounts.size());
    Json config = Json::object();
    for (const SweepAxis& axis : each.axes) {
      config.update(axis[static_cast<std::size_t>(rest % static_cast<int64_t>(axis.size()))]);
      rest /= static_cast<int64_t>(axis.size());
    }
    const SweepRun run(each, config, n);
    const SweepOutcome outcome = run(static_cast<uint64_t>(k));
    ++(outcome.refused ? refused : finished);
    if (outcome.problem.empty()) continue;
    auto& [times, example] = problems[outcome.problem];
    if (times++ == 0) example = run.describe();
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  std::printf("%s: %lld of %lld combinations in %.1f s, %lld finished, %lld refused\n", each.name.c_str(),
              static_cast<long long>(count - left_out), static_cast<long long>(total), seconds,
              static_cast<long long>(finished), static_cast<long long>(refused));
  EXPECT_GT(finished, 0);
  int shown = 0;
  for (const auto& [problem, found] : problems)
    if (++shown <= 12) ADD_FAILURE() << found.first << " runs: " << problem << "\n  such as " << found.second;
}

INSTANTIATE_TEST_SUITE_P(All, SchedulerSweep, testing::ValuesIn(sweep_classes()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace diffusers::test

// Profiles of power-function averages, and combinations of snapshots that approximate another profile.

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include <diffusers/io/files.h>
#include <diffusers/io/safetensors.h>
#include <diffusers/training/post_hoc_ema.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "io/open_model_file.h"

namespace diffusers {
namespace {

constexpr std::string_view kSnapshotPrefix = "power_ema-";
constexpr std::string_view kSnapshotSuffix = ".safetensors";

/// Computes the integral of the product of two profiles (appendix C).
double inner_product(double step_a, double gamma_a, double step_b, double gamma_b) {
  const double exponent = step_a < step_b ? gamma_b : -gamma_a;
  return (gamma_a + 1) * (gamma_b + 1) * std::pow(step_a / step_b, exponent) /
         ((gamma_a + gamma_b + 1) * std::max(step_a, step_b));
}

bool same_profile(const PowerEmaProfile& a, const PowerEmaProfile& b) {
  return a.step == b.step && a.sigma_rel == b.sigma_rel;
}

template <class Number>
Number metadata_number(const SafetensorsFile& file, const std::string& key) {
  Number number{};
  const auto found = file.metadata().find(key);
  require<FileError>(found != file.metadata().end(),
                     "{} is not a snapshot of an average: its metadata lack \"{}\"", escaped(file.path()),
                     key);
  const std::string& text = found->second;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  require<FileError>(error == std::errc() && end == text.data() + text.size(),
                     "{} in the metadata of {} is {}, expected a number", key, escaped(file.path()),
                     escaped(text));
  return number;
}

PowerEmaProfile profile_of(const SafetensorsFile& file) {
  const PowerEmaProfile profile{metadata_number<int64_t>(file, "step"),
                                metadata_number<double>(file, "sigma_rel")};
  require<FileError>(profile.step > 0 && profile.sigma_rel > 0,
                     "{} has step {} and sigma_rel {}, expected more than 0", escaped(file.path()),
                     profile.step, profile.sigma_rel);
  return profile;
}

/// Returns the snapshots up to `step`.
std::vector<PowerEmaSnapshot> up_to(const std::vector<PowerEmaSnapshot>& snapshots, int64_t step) {
  std::vector<PowerEmaSnapshot> found;
  std::set<int64_t> steps;
  for (const PowerEmaSnapshot& snapshot : snapshots) {
    steps.insert(snapshot.profile.step);
    if (snapshot.profile.step <= step) found.push_back(snapshot);
  }
  require<ConfigError>(steps.contains(step), "step is {}, but the snapshots are of the steps {}", step,
                       fmt::join(steps, ", "));
  return found;
}

/// sums += coefficient * tensors of the file
void add_snapshot(TensorMap& sums, const std::string& path, double coefficient) {
  const SafetensorsFile file(path);
  const bool is_first = sums.empty();
  require<FileError>(is_first || file.names().size() == sums.size(),
                     "{} holds {} tensors, the snapshots before it {}", escaped(path), file.names().size(),
                     sums.size());
  for (const std::string& name : file.names()) {
    const Tensor value = file.get(name, at::kCPU, at::kDouble);
    require<FileError>(at::isFloatingType(value.scalar_type()), "\"{}\" in {} is {}, expected an average",
                       name, escaped(path), describe(value));
    if (is_first) {
      sums.insert(name, value.mul(coefficient));
      continue;
    }
    require<FileError>(sums.contains(name) && sums.at(name).sizes() == value.sizes(),
                       "\"{}\" in {} is {}, the snapshots before it have no such tensor", name, escaped(path),
                       describe(value));
    sums.at(name).add_(value, coefficient);
  }
}

bool holds_doubles(const std::string& path) {
  const SafetensorsFile file(path);
  const auto& names = file.names();
  return std::any_of(names.begin(), names.end(),
                     [&](const auto& name) { return file.info(name).dtype == at::kDouble; });
}

}  // namespace

double sigma_rel_to_gamma(double sigma_rel) {
  // The relative width of gamma = 0. The margin accepts its rounding error.
  const double widest = 1 / std::sqrt(12.0);
  require<ConfigError>(sigma_rel > 1e-6 && sigma_rel <= widest * (1 + 1e-12),
                       "sigma_rel is {}, expected more than 1e-6, and at most {}", sigma_rel, widest);
  // Newton's method starts above the largest root, where the cubic is increasing and convex. It decreases
  // towards the root and cannot pass it.
  const double t = 1 / (sigma_rel * sigma_rel);
  double gamma = std::sqrt(t);
  while (true) {
    const double value = ((gamma + 7) * gamma + (16 - t)) * gamma + (12 - t);
    const double slope = (3 * gamma + 14) * gamma + (16 - t);
    const double next = gamma - value / slope;
    if (!(next < gamma)) return std::max(gamma, 0.0);
    gamma = next;
  }
}

double gamma_to_sigma_rel(double gamma) {
  require<ConfigError>(std::isfinite(gamma) && gamma >= 0,
                       "gamma is {}, expected a finite number of at least 0", gamma);
  return std::sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2);
}

std::vector<PowerEmaSnapshot> list_power_ema_snapshots(const std::filesystem::path& folder_path) {
  const std::string folder = folder_path.string();
  std::vector<PowerEmaSnapshot> snapshots;
  for (const std::string& name : list_folder(folder)) {
    if (!std::string_view(name).starts_with(kSnapshotPrefix) ||
        !std::string_view(name).ends_with(kSnapshotSuffix))
      continue;
    const std::string path = join_path(folder, name);
    snapshots.push_back({path, profile_of(SafetensorsFile(open_model_file(folder, name)))});
  }
  std::sort(snapshots.begin(), snapshots.end(), [](const PowerEmaSnapshot& a, const PowerEmaSnapshot& b) {
    return std::tie(a.profile.step, a.profile.sigma_rel) < std::tie(b.profile.step, b.profile.sigma_rel);
  });
  return snapshots;
}

PowerEmaSolution solve_power_ema(const std::vector<PowerEmaProfile>& profiles,
                                 const PowerEmaProfile& wanted) {
  require<ConfigError>(!profiles.empty(), "there are no averages to combine");
  const auto require_step = [](int64_t step) {
    require<ConfigError>(step > 0, "the step of an average is {}, expected 1 or more", step);
  };
  require_step(wanted.step);
  std::vector<double> gammas;
  for (std::size_t i = 0; i < profiles.size(); ++i) {
    require_step(profiles[i].step);
    gammas.push_back(sigma_rel_to_gamma(profiles[i].sigma_rel));
    for (std::size_t j = 0; j < i; ++j)
      require<ConfigError>(!same_profile(profiles[i], profiles[j]),
                           "the average of step {} and sigma_rel {} is given twice", profiles[i].step,
                           profiles[i].sigma_rel);
  }

  PowerEmaSolution solution;
  for (const PowerEmaProfile& profile : profiles)
    solution.coefficients.push_back(same_profile(profile, wanted) ? 1.0 : 0.0);
  const auto& unit = solution.coefficients;
  if (std::find(unit.begin(), unit.end(), 1.0) != unit.end()) return solution;

  const double gamma = sigma_rel_to_gamma(wanted.sigma_rel);
  const auto size = static_cast<int64_t>(profiles.size());
  const Tensor products = at::empty({size, size}, at::kDouble);
  const Tensor wanted_products = at::empty({size}, at::kDouble);
  const auto step = [](const PowerEmaProfile& profile) { return static_cast<double>(profile.step); };
  for (int64_t i = 0; i < size; ++i) {
    for (int64_t j = 0; j < size; ++j)
      products[i][j] = inner_product(step(profiles[i]), gammas[i], step(profiles[j]), gammas[j]);
    wanted_products[i] = inner_product(step(profiles[i]), gammas[i], step(wanted), gamma);
  }
  const Tensor coefficients = at::linalg_solve(products, wanted_products);
  for (int64_t i = 0; i < size; ++i) {
    solution.coefficients[i] = coefficients[i].item<double>();
    require<ConfigError>(std::isfinite(solution.coefficients[i]),
                         "the averages are too similar to be combined");
  }
  const double length_squared = inner_product(step(wanted), gamma, step(wanted), gamma);
  const Tensor covered = coefficients.dot(2 * wanted_products - products.mv(coefficients));
  solution.relative_error = std::sqrt(std::max(0.0, 1 - covered.item<double>() / length_squared));
  return solution;
}

PowerEmaReconstruction reconstruct_power_ema(const std::vector<PowerEmaSnapshot>& snapshots, double sigma_rel,
                                             std::optional<int64_t> step) {
  require<ConfigError>(!snapshots.empty(), "there are no snapshots to reconstruct an average from");
  PowerEmaReconstruction result;
  result.profile.sigma_rel = sigma_rel;
  if (step) {
    result.profile.step = *step;
  } else {
    for (const PowerEmaSnapshot& snapshot : snapshots)
      result.profile.step = std::max(result.profile.step, snapshot.profile.step);
  }
  const std::vector<PowerEmaSnapshot> parts = up_to(snapshots, result.profile.step);
  std::vector<PowerEmaProfile> profiles;
  for (const PowerEmaSnapshot& part : parts) profiles.push_back(part.profile);
  const PowerEmaSolution solution = solve_power_ema(profiles, result.profile);
  result.relative_error = solution.relative_error;

  TensorMap sums;
  bool is_double = true;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (solution.coefficients[i] == 0) continue;
    add_snapshot(sums, parts[i].path, solution.coefficients[i]);
    is_double = is_double && holds_doubles(parts[i].path);
  }
  for (const auto& [name, sum] : sums) result.tensors.insert(name, is_double ? sum : sum.to(at::kFloat));
  return result;
}

}  // namespace diffusers

#pragma once

// Averages of the weights whose length is chosen after the training (Karras et al. 2024, "Analyzing and
// Improving the Training Dynamics of Diffusion Models", arXiv 2312.02696, section 3 and appendix C).
//
// The average of relative width sigma_rel at step t weighs the weights of step s with s^gamma, where the
// standard deviation of that profile is sigma_rel * t. A training keeps two such averages, writes them to
// disk now and then, and afterwards the average of any other width is a linear combination of these
// snapshots.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/core/tensor_map.h>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// The exponent of the profile of a relative width: the largest root of
/// gamma^3 + 7 gamma^2 + (16 - sigma_rel^-2) gamma + 12 - sigma_rel^-2 (algorithm 2).
/// @param sigma_rel above 0, up to 1 / sqrt(12), which is the plain mean of all steps (gamma = 0)
/// @throws ConfigError
double sigma_rel_to_gamma(double sigma_rel);

/// (gamma + 1)^(1/2) (gamma + 2)^-1 (gamma + 3)^(-1/2). @param gamma 0 or more
double gamma_to_sigma_rel(double gamma);

struct PostHocEmaConfig {
  std::vector<double> sigma_rels = {0.05, 0.10};
};

/// Keeps the power-function averages of a training.
///
/// They lie where the parameters lie, in their dtype; parameters that do not require a gradient when the
/// object is made are not averaged.
class PostHocEma {
 public:
  /// @param named_parameters such as `module->named_parameters()`; every call takes the same
  /// @throws ConfigError for widths outside (0, 1 / sqrt(12)], equal ones, or none
  explicit PostHocEma(const TensorMap& named_parameters, const PostHocEmaConfig& config = {});

  /// Step t, counted from 1: average = beta average + (1 - beta) parameters, beta = (1 - 1 / t)^(gamma + 1).
  void step(const TensorMap& named_parameters);
  /// Writes the average number `index` into the parameters.
  void copy_to(const TensorMap& named_parameters, std::size_t index = 0) const;

  int64_t optimization_step() const { return step_; }
  const PostHocEmaConfig& config() const { return config_; }
  /// The average of `sigma_rels[index]`, by the names of the parameters.
  const TensorMap& average(std::size_t index) const;

  /// Writes each average to `<folder>/power_ema-<step>-<sigma_rel>.safetensors`, with both in the metadata.
  /// @param dtype float16 halves the files, and costs the reconstruction three digits
  /// @return the paths
  /// @throws ConfigError for another dtype than float16, float32 and float64; TensorError for an average that
  ///         the dtype cannot hold; Error before the first step
  std::vector<std::string> save_snapshots(const std::filesystem::path& folder,
                                          at::ScalarType dtype = at::kFloat) const;

  /// All that is needed to go on exactly: "step", "sigma_rels" and "<index>.<name>". The averages are the
  /// object's own tensors.
  TensorMap state_dict() const;
  /// @throws ConfigError for other widths; TensorError naming what is missing or of another shape
  void load_state_dict(const TensorMap& state);

 private:
  PostHocEmaConfig config_;
  std::vector<double> gammas_;
  std::vector<TensorMap> averages_;
  int64_t step_ = 0;
};

/// An average that exists, or one that is wanted.
struct PowerEmaProfile {
  int64_t step = 0;
  double sigma_rel = 0.0;
};

struct PowerEmaSnapshot {
  std::string path;
  PowerEmaProfile profile;
};

/// The snapshots in a folder, by step and width; other files are passed over.
/// @throws FileError for a snapshot whose metadata do not say what it is
std::vector<PowerEmaSnapshot> list_power_ema_snapshots(const std::filesystem::path& folder);

struct PowerEmaSolution {
  /// One for each profile. They add up to 1 only as far as the combined profile fits: with two snapshots of
  /// each width the sum may be off by some percent, with sixteen by 1e-4.
  std::vector<double> coefficients;
  /// Distance of the combined profile from the wanted one, relative to the length of that (both in L2).
  double relative_error = 0.0;
};

/// The combination of profiles that comes nearest to the wanted one in least squares, solved in float64
/// (algorithm 3). A profile that is wanted and given is taken as it is.
/// @throws ConfigError for no or equal profiles, and for values out of range
PowerEmaSolution solve_power_ema(const std::vector<PowerEmaProfile>& profiles, const PowerEmaProfile& wanted);

struct PowerEmaReconstruction {
  /// By the names of the parameters, on the CPU: float32, or float64 if the snapshots are.
  TensorMap tensors;
  PowerEmaProfile profile;
  double relative_error = 0.0;  ///< see PowerEmaSolution
};

/// The average of another width, from all snapshots up to its step. Reads one snapshot after the other and
/// needs eight bytes of memory for each averaged number.
/// @param sigma_rel best between the widths of the snapshots, or not far outside
/// @param step that of a snapshot; None: the last one. A profile that ends between two snapshots cannot be
///        combined from them
/// @throws ConfigError naming the steps that exist; FileError for snapshots that do not fit together
PowerEmaReconstruction reconstruct_power_ema(const std::vector<PowerEmaSnapshot>& snapshots, double sigma_rel,
                                             std::optional<int64_t> step = std::nullopt);

}  // namespace diffusers

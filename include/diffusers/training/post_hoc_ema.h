#pragma once

/// @file
/// Averages of the weights whose width is chosen after the training (Karras et al. 2024, "Analyzing and
/// Improving the Training Dynamics of Diffusion Models", arXiv 2312.02696, section 3 and appendix C).
///
/// The average of relative width sigma_rel at step t has the weight s^gamma for the parameters of step s. The
/// standard deviation of this profile is sigma_rel * t. A training keeps two such averages and writes
/// snapshots of them. A linear combination of the snapshots approximates the average of any other width.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/core/tensor_map.h>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// Computes the exponent of the profile of a relative width: the largest root of
/// gamma^3 + 7 gamma^2 + (16 - sigma_rel^-2) gamma + 12 - sigma_rel^-2 (algorithm 2).
/// @param sigma_rel relative width, in (1e-6, 1 / sqrt(12)]; the largest width is the mean over all steps
/// @return gamma, 0 or more
/// @throws ConfigError for a width out of range
double sigma_rel_to_gamma(double sigma_rel);

/// Computes the relative width of a profile: (gamma + 1)^(1/2) (gamma + 2)^-1 (gamma + 3)^(-1/2).
/// @param gamma exponent, 0 or more
/// @return sigma_rel
double gamma_to_sigma_rel(double gamma);

/// Options of a `PostHocEma`.
struct PostHocEmaConfig {
  std::vector<double> sigma_rels = {0.05, 0.10};  ///< relative widths in (1e-6, 1 / sqrt(12)], each once
};

/// Keeps power-function averages of a model during a training.
///
/// The averages are on the device of the parameters, in their dtype. Parameters that do not require a
/// gradient when the object is created are not averaged.
class PostHocEma {
 public:
  /// Starts the averages.
  /// @param named_parameters such as `unet->named_parameters()`; all calls take the same parameters
  /// @param config relative widths
  /// @throws ConfigError for no widths, a width out of range, equal widths, and no trained parameters
  explicit PostHocEma(const TensorMap& named_parameters, const PostHocEmaConfig& config = {});

  /// Moves the averages towards the parameters: average = beta * average + (1 - beta) * parameter, with
  /// beta = (1 - 1 / t)^(gamma + 1) at step t = 1, 2, ...
  /// @param named_parameters the current values
  /// @throws TensorError if an averaged parameter is missing or has another shape
  void step(const TensorMap& named_parameters);
  /// Writes an average into the parameters.
  /// @param named_parameters receive the average
  /// @param index index of the width in `sigma_rels`
  /// @throws Error if there is no such average; TensorError if a parameter is missing or has another shape
  void copy_to(const TensorMap& named_parameters, std::size_t index = 0) const;

  /// Returns the number of calls of `step`.
  int64_t optimization_step() const { return step_; }
  /// Returns the options.
  const PostHocEmaConfig& config() const { return config_; }
  /// Returns an average, by the names of the parameters.
  /// @param index index of the width in `sigma_rels`
  /// @throws Error if there is no such average
  const TensorMap& average(std::size_t index) const;

  /// Writes each average to `FOLDER/power_ema-STEP-SIGMA_REL.safetensors`. The metadata of the file contain
  /// the step and the width.
  /// @param folder created if it does not exist
  /// @param dtype float16, float32 or float64. float16 halves the file size, and the reconstruction loses
  /// three
  ///        digits
  /// @return paths of the files
  /// @throws ConfigError for another dtype
  /// @throws TensorError for an average that is non-finite in the dtype
  /// @throws Error before the first step
  /// @throws FileError if a file cannot be written
  std::vector<std::string> save_snapshots(const std::filesystem::path& folder,
                                          at::ScalarType dtype = at::kFloat) const;

  /// Returns the state: "step" (int64, 0-dim), "sigma_rels" (float64) and the averages under "INDEX.NAME".
  /// @return the averages are the object's own tensors, not copies
  TensorMap state_dict() const;
  /// Copies a state into the object.
  /// @param state result of `state_dict`
  /// @throws ConfigError for other widths; TensorError naming the entry that is missing or of another shape
  void load_state_dict(const TensorMap& state);

 private:
  PostHocEmaConfig config_;
  std::vector<double> gammas_;
  std::vector<TensorMap> averages_;
  int64_t step_ = 0;
};

/// The profile of an average.
struct PowerEmaProfile {
  int64_t step = 0;        ///< last step of the average, from 1
  double sigma_rel = 0.0;  ///< relative width, in (1e-6, 1 / sqrt(12)]
};

/// A snapshot file.
struct PowerEmaSnapshot {
  std::string path;         ///< path of the file
  PowerEmaProfile profile;  ///< profile of the average in the file
};

/// Lists the snapshots of a folder.
/// @param folder folder of the snapshots; other files are ignored
/// @return the snapshots by step, then by width
/// @throws FileError for a snapshot without step or width in its metadata
std::vector<PowerEmaSnapshot> list_power_ema_snapshots(const std::filesystem::path& folder);

/// A linear combination of profiles.
struct PowerEmaSolution {
  /// One coefficient for each profile. Their sum differs from 1 because the combined profile differs from the
  /// wanted one: by a few percent with two snapshots of each width, by 1e-4 with sixteen.
  std::vector<double> coefficients;
  /// L2 distance between the combined and the wanted profile, divided by the L2 norm of the wanted profile.
  double relative_error = 0.0;
};

/// Computes the linear combination of profiles that approximates another profile by least squares, in float64
/// (algorithm 3). If the wanted profile is one of the given profiles, its coefficient is 1.
/// @param profiles profiles of the snapshots
/// @param wanted profile to approximate
/// @return the coefficients and the error
/// @throws ConfigError for no profiles, for equal profiles, and for values out of range
PowerEmaSolution solve_power_ema(const std::vector<PowerEmaProfile>& profiles, const PowerEmaProfile& wanted);

/// An average that was computed from snapshots.
struct PowerEmaReconstruction {
  /// The average by the names of the parameters, on the CPU: float64 if the snapshots are float64, else
  /// float32.
  TensorMap tensors;
  PowerEmaProfile profile;      ///< profile of the average
  double relative_error = 0.0;  ///< error of the profile; see `PowerEmaSolution`
};

/// Computes an average of another width from all snapshots up to a step (algorithm 3). It reads one snapshot
/// at a time and needs eight bytes of memory for each averaged number.
/// @param snapshots snapshots of one training
/// @param sigma_rel relative width; the error is smallest between the widths of the snapshots
/// @param step step of a snapshot, at which the average ends; None: the last one. An average that ends
/// between
///        two snapshots cannot be computed
/// @return the average and its error
/// @throws ConfigError naming the existing steps, if there is no snapshot of that step
/// @throws FileError for snapshots of different trainings
PowerEmaReconstruction reconstruct_power_ema(const std::vector<PowerEmaSnapshot>& snapshots, double sigma_rel,
                                             std::optional<int64_t> step = std::nullopt);

}  // namespace diffusers

#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include <diffusers/schedulers/enums.h>
#include <diffusers/schedulers/scheduler.h>

namespace diffusers {

/// Computes `num_inference_steps` timesteps from high to low (Lin et al. 2023, arXiv 2305.08891, table 2).
/// @param spacing spacing of the timesteps
/// @param num_train_timesteps number of training timesteps T
/// @param num_inference_steps number of timesteps of the run
/// @param steps_offset number that is added to each timestep of leading spacing
/// @param rounded false keeps the timesteps of linspace unrounded, as the sigma-based schedulers use them
/// @return the timesteps, descending
/// @throws ConfigError unless 1 <= num_inference_steps <= num_train_timesteps (no upper limit for unrounded
///   linspace)
std::vector<double> spaced_timesteps(TimestepSpacing spacing, int64_t num_train_timesteps,
                                     int64_t num_inference_steps, int64_t steps_offset = 0,
                                     bool rounded = true);

/// The timesteps of a run: a tensor on the requested device and the same values on the host. `step` uses the
/// host values, so it reads nothing from a device.
class TimestepSchedule {
 public:
  /// Makes an empty schedule.
  TimestepSchedule() = default;
  /// Makes a schedule.
  /// @param values the timesteps, in the order of the run
  /// @param dtype dtype of the tensor
  /// @param device device of the tensor
  TimestepSchedule(std::vector<double> values, at::ScalarType dtype, at::Device device = at::kCPU);

  /// Returns the timesteps on the device, `[N]`.
  const Timesteps& tensor() const { return tensor_; }
  /// Returns the number of timesteps N.
  int64_t size() const { return static_cast<int64_t>(values_.size()); }
  /// Returns a timestep on the host. The index is not checked.
  /// @param index position, 0 to N - 1
  /// @return the timestep
  double operator[](int64_t index) const { return values_[static_cast<std::size_t>(index)]; }
  /// Returns the timesteps on the host.
  const std::vector<double>& values() const { return values_; }

  /// Returns the positions of elements of `tensor()`. Such elements share its memory, so their storage offset
  /// gives the position even if several timesteps have the same value.
  /// @param timesteps any tensor
  /// @return one position for each element; nullopt if `timesteps` is not a part of `tensor()`
  std::optional<std::vector<int64_t>> places_of(const Tensor& timesteps) const;
  /// Returns the values of timesteps. A part of `tensor()` is looked up on the host; any other tensor on a
  /// device is copied to the host.
  /// @param timesteps any tensor
  /// @return one value for each element
  std::vector<double> values_of(const Tensor& timesteps) const;
  /// Returns the value of a timestep argument, as `values_of` does.
  /// @param timestep 0-dim or `[1]`
  /// @param where name of the calling function, for the error message
  /// @return the value
  /// @throws TensorError naming `where` if the tensor does not hold a single number
  double value_of(const Tensor& timestep, std::string_view where) const;
  /// Returns the value of a timestep argument that must be a whole number.
  /// @param timestep 0-dim or `[1]`
  /// @param where name of the calling function, for the error message
  /// @return the training timestep
  /// @throws TensorError naming `where` if the tensor does not hold a single whole number
  int64_t index_of_training_step(const Tensor& timestep, std::string_view where) const;
  /// Returns the position of the first timestep of a value.
  /// @param value the value
  /// @return the position; -1 if there is none
  int64_t find(double value) const;
  /// Returns the timestep after another in the run.
  /// @param timestep a training timestep
  /// @param where name of the calling function, for the error message
  /// @return the next timestep; -1 after the last
  /// @throws TensorError if the timestep is not in `tensor()`
  int64_t following(int64_t timestep, std::string_view where) const;

 private:
  Timesteps tensor_;
  std::vector<double> values_;
};

}  // namespace diffusers

#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include <diffusers/schedulers/enums.h>
#include <diffusers/schedulers/scheduler.h>

namespace diffusers {

/// `num_inference_steps` timesteps from high to low (Lin et al. 2023, arXiv 2305.08891, table 2).
/// @param spacing how they are spread
/// @param num_train_timesteps number of training timesteps T
/// @param num_inference_steps number of timesteps of the run
/// @param steps_offset added with leading spacing, as some model families need it
/// @param rounded false leaves linspace unrounded, as the sigma-based schedulers take it
/// @throws ConfigError unless 1 <= num_inference_steps <= num_train_timesteps (no upper limit for unrounded
/// linspace)
std::vector<double> spaced_timesteps(TimestepSpacing spacing, int64_t num_train_timesteps,
                                     int64_t num_inference_steps, int64_t steps_offset = 0,
                                     bool rounded = true);

/// The timesteps of a run: a tensor on the device that was asked for and the same values on the host, so that
/// `step` reads nothing back from a device.
class TimestepSchedule {
 public:
  /// No timesteps.
  TimestepSchedule() = default;
  /// @param values the timesteps, in the order of the run
  /// @param dtype dtype of the tensor
  /// @param device device of the tensor
  TimestepSchedule(std::vector<double> values, at::ScalarType dtype, at::Device device = at::kCPU);

  /// The timesteps on the device, `[N]`.
  const Timesteps& tensor() const { return tensor_; }
  /// Number of timesteps N.
  int64_t size() const { return static_cast<int64_t>(values_.size()); }
  /// A timestep on the host.
  /// @param index position, 0 to N - 1
  double operator[](int64_t index) const { return values_[static_cast<std::size_t>(index)]; }
  /// The timesteps on the host.
  const std::vector<double>& values() const { return values_; }

  /// The position in `tensor()` of each element of timesteps, if they are elements of it: they share its
  /// memory, so their storage offset tells which of several equal values is meant.
  /// @param timesteps any tensor
  /// @return nullopt if they are not
  std::optional<std::vector<int64_t>> places_of(const Tensor& timesteps) const;
  /// The values of timesteps. A part of `tensor()` is looked up on the host; only a foreign tensor on a
  /// device costs a copy from there.
  /// @param timesteps any tensor
  std::vector<double> values_of(const Tensor& timesteps) const;
  /// The value of a timestep argument, in the same way.
  /// @param timestep 0-dim or `[1]`
  /// @param where what asks, for the message
  /// @throws TensorError naming `where`, if it is no single number
  double value_of(const Tensor& timestep, std::string_view where) const;
  /// `value_of`, which must be whole.
  /// @param timestep 0-dim or `[1]`
  /// @param where what asks, for the message
  /// @throws TensorError naming `where`, if it is no whole number
  int64_t index_of_training_step(const Tensor& timestep, std::string_view where) const;
  /// Position of the first element of a value.
  /// @param value the value
  /// @return -1 if there is none
  int64_t find(double value) const;
  /// The timestep that follows another.
  /// @param timestep a training timestep
  /// @param where what asks, for the message
  /// @return -1 after the last
  /// @throws TensorError if the timestep is none of `tensor()`
  int64_t following(int64_t timestep, std::string_view where) const;

 private:
  Timesteps tensor_;
  std::vector<double> values_;
};

}  // namespace diffusers

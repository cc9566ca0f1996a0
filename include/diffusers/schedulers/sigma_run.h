#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include <diffusers/schedulers/device_table.h>
#include <diffusers/schedulers/timestep_schedule.h>

namespace diffusers {

/// A sampling run along noise levels sigma_0 > sigma_1 > ... and its current position. Every sigma-based
/// scheduler has one. `step` uses the host copy of the sigmas, so nothing is read from a device.
class SigmaRun {
 public:
  /// Makes a run without steps.
  SigmaRun() = default;
  /// Makes a run.
  /// @param sigmas noise levels, which are rounded to float32; usually one more than there are timesteps
  /// @param timesteps the timesteps of the run
  /// @param stages number of model evaluations per step, 1 or 2. With 2, steps begin at the even positions of
  ///   `timesteps`.
  SigmaRun(const std::vector<double>& sigmas, TimestepSchedule timesteps, int64_t stages = 1);

  /// Returns the noise levels, float32 on the CPU.
  const Tensor& sigmas() const { return sigmas_.host(); }
  /// Returns the noise levels on a device. The first call uploads them.
  /// @param device the device
  /// @return float32 `[num_sigmas()]`
  Tensor sigmas_on(at::Device device) const { return sigmas_.on(device, at::kFloat); }
  /// Returns the timesteps of the run.
  const TimestepSchedule& timesteps() const { return timesteps_; }
  /// Returns the number of noise levels.
  int64_t num_sigmas() const { return static_cast<int64_t>(host_.size()); }
  /// Returns sigma_i as a number.
  /// @param i position, 0 to num_sigmas() - 1
  /// @return the noise level
  /// @throws Error if the position is out of range, such as after the last step of the run
  float sigma(int64_t i) const;
  /// Returns the largest noise level.
  float max_sigma() const;

  /// Returns the position of the current step; nullopt before the first step.
  const std::optional<int64_t>& step_index() const { return step_index_; }
  /// Returns the position of `set_begin_index`; nullopt if it was not called.
  const std::optional<int64_t>& begin_index() const { return begin_index_; }
  /// Sets the position at which the run begins.
  /// @param begin_index position, 0 to the number of timesteps - 1
  /// @throws ConfigError if the position is out of range
  void set_begin_index(int64_t begin_index);

  /// Returns the position of the current step. At the start of a run this is the begin index; without a begin
  /// index it is the position of the timestep. The position of an element of `timesteps()` follows from its
  /// memory address. Any other tensor is looked up by value. If a value occurs several times, Python's rule
  /// applies: the first timestep has position 0, another one has its second position. With two stages it has
  /// the first position at which a step begins.
  /// @param timestep 0-dim or `[1]`
  /// @param where name of the calling function, for the error message
  /// @return position in `timesteps()`
  /// @throws TensorError if the timestep is not in `timesteps()`
  int64_t index(const Tensor& timestep, std::string_view where) const;
  /// Returns `index(timestep, where)` and makes it the current step.
  /// @param timestep 0-dim or `[1]`
  /// @param where name of the calling function, for the error message
  /// @return position in `timesteps()`
  /// @throws TensorError if the timestep is not in `timesteps()`
  int64_t enter(const Tensor& timestep, std::string_view where);
  /// Moves to the next step.
  void advance() { ++*step_index_; }

  /// The sigmas of the training timesteps 0 to count - 1. Empty for a scheduler without training timesteps.
  struct TrainingSigmas {
    int64_t count = 0;                    ///< Number of training timesteps.
    std::function<Tensor()> sigmas = {};  ///< Returns float32 `[count]`; called once.
  };
  /// Returns the sigma of each sample, shaped to broadcast over the samples, in their dtype. A timestep of
  /// this run has the sigma of the run; any other training timestep has its sigma in `training`. After
  /// `set_begin_index` all samples have the sigma of the current step (before the first step: of the begin
  /// index), as in Python. The timesteps are looked up on the device of the samples, in tables that the first
  /// call uploads.
  /// @param timesteps `[B]` or `[1]`
  /// @param samples `[B, ...]`
  /// @param training the sigmas of the training timesteps
  /// @param where name of the calling function, for the error message
  /// @return `[B, 1, 1, ...]` or `[1, 1, ...]`
  /// @throws TensorError if a timestep is neither in the run nor a training timestep. Timesteps on a device
  ///   are not checked, because that would read from it: the sigma of an unknown timestep is NaN.
  Tensor per_sample_sigmas(const Tensor& timesteps, const Tensor& samples, const TrainingSigmas& training,
                           std::string_view where) const;
  /// Returns the position in `timesteps()` of each timestep.
  /// @param timesteps `[B]` or `[1]`
  /// @param samples `[B, ...]`
  /// @param where name of the calling function, for the error message
  /// @return int64 `[B]` on the device of the samples
  /// @throws TensorError if a timestep is not in `timesteps()`. Timesteps on a device are not checked: the
  ///   position of an unknown timestep is -1.
  Tensor per_sample_positions(const Tensor& timesteps, const Tensor& samples, std::string_view where) const;

 private:
  struct DeviceTables;
  static std::shared_ptr<DeviceTables> make_tables();
  int64_t position(double timestep) const;
  int64_t place_of(const Tensor& timestep, std::string_view where) const;
  int64_t first_of_slice(const Tensor& timesteps) const;
  Tensor places(const Tensor& timesteps, const Tensor& samples, int64_t training_count,
                std::string_view where) const;

  DeviceTable sigmas_;
  std::vector<float> host_;
  TimestepSchedule timesteps_;
  int64_t stages_ = 1;
  std::optional<int64_t> step_index_;
  std::optional<int64_t> begin_index_;
  std::shared_ptr<DeviceTables> tables_ = make_tables();  // copies of a run share them
};

}  // namespace diffusers

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

/// A sampling run along noise levels sigma_0 > sigma_1 > ... and where it stands: what every sigma-based
/// scheduler keeps. The host copy of the sigmas feeds `step`, so that nothing is read back from a device.
class SigmaRun {
 public:
  /// A run without steps.
  SigmaRun() = default;
  /// @param sigmas rounded to float32; usually one more than there are timesteps
  /// @param timesteps the timesteps of the run
  /// @param stages model evaluations a step: with 2, steps begin at the even positions of the timesteps
  SigmaRun(const std::vector<double>& sigmas, TimestepSchedule timesteps, int64_t stages = 1);

  /// The noise levels, float32 on the CPU.
  const Tensor& sigmas() const { return sigmas_.host(); }
  /// The noise levels on a device, uploaded once.
  /// @param device the device
  Tensor sigmas_on(at::Device device) const { return sigmas_.on(device, at::kFloat); }
  /// The timesteps of the run.
  const TimestepSchedule& timesteps() const { return timesteps_; }
  /// Number of noise levels.
  int64_t num_sigmas() const { return static_cast<int64_t>(host_.size()); }
  /// sigma_i as a number.
  /// @param i position, 0 to num_sigmas() - 1
  /// @throws Error past either end: the run is over, or was begun too late
  float sigma(int64_t i) const;
  /// The largest noise level.
  float max_sigma() const;

  /// The current step; nullopt before the first.
  const std::optional<int64_t>& step_index() const { return step_index_; }
  /// The step at which the run begins; nullopt if none was set.
  const std::optional<int64_t>& begin_index() const { return begin_index_; }
  /// Sets the step at which the run begins.
  /// @param begin_index position from 0
  void set_begin_index(int64_t begin_index);

  /// The current step; at the start of a run the begin index, or else where the timestep stands. An element
  /// of `timesteps()` stands where its memory is. Any other tensor is looked up by value: the first timestep
  /// is the first place; another that occurs more than once is its second place, as in Python, or with two
  /// stages the first place where a step begins.
  /// @param timestep 0-dim or `[1]`
  /// @param where what asks, for the message
  /// @throws TensorError if the timestep is none of `timesteps()`
  int64_t index(const Tensor& timestep, std::string_view where) const;
  /// `index`, remembered.
  /// @param timestep 0-dim or `[1]`
  /// @param where what asks, for the message
  /// @throws TensorError if the timestep is none of `timesteps()`
  int64_t enter(const Tensor& timestep, std::string_view where);
  /// Moves to the next step.
  void advance() { ++*step_index_; }

  /// The sigmas of the training timesteps 0 to count - 1, for schedulers that have any.
  struct TrainingSigmas {
    int64_t count = 0;                    ///< number of training timesteps
    std::function<Tensor()> sigmas = {};  ///< float32 `[count]`; asked once
  };
  /// The sigma of each sample, shaped to broadcast over the samples, in their dtype: that of the timestep in
  /// this run, or else of that training timestep. As in Python, where a begin index was set all samples have
  /// the sigma of the current step, before the first step that of the begin index. The timesteps are looked
  /// up on the device of the samples, in tables that are uploaded by the first call.
  /// @param timesteps `[B]` or `[1]`
  /// @param samples `[B, ...]`
  /// @param training the sigmas of the training timesteps
  /// @param where what asks, for the message
  /// @return `[B, 1, 1, ...]` or `[1, 1, ...]`
  /// @throws TensorError if a timestep is neither; on a device, where that could not be told without reading
  /// from it, its sigma is NaN
  Tensor per_sample_sigmas(const Tensor& timesteps, const Tensor& samples, const TrainingSigmas& training,
                           std::string_view where) const;
  /// The position in `timesteps()` of each timestep.
  /// @param timesteps `[B]` or `[1]`
  /// @param samples `[B, ...]`
  /// @param where what asks, for the message
  /// @return int64 `[B]` on the device of the samples
  /// @throws TensorError if it is none of `timesteps()`; -1 on a device
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

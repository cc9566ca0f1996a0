#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include <diffusers/schedulers/timestep_schedule.h>

namespace diffusers {

/// A sampling run along noise levels sigma_0 > sigma_1 > ... and where it stands: what every sigma-based
/// scheduler keeps. The host copy of the sigmas feeds `step`, so that nothing is read back from a device.
class SigmaRun {
 public:
  SigmaRun() = default;
  /// @param sigmas rounded to float32; usually one more than there are timesteps
  /// @param stages model evaluations a step: with 2, steps begin at the even positions of the timesteps
  SigmaRun(const std::vector<double>& sigmas, TimestepSchedule timesteps, int64_t stages = 1);

  /// float32, on the CPU
  const Tensor& sigmas() const { return sigmas_; }
  const TimestepSchedule& timesteps() const { return timesteps_; }
  int64_t num_sigmas() const { return static_cast<int64_t>(host_.size()); }
  /// sigma_i. @throws Error past either end: the run is over, or was begun too late
  float sigma(int64_t i) const;
  float max_sigma() const;

  const std::optional<int64_t>& step_index() const { return step_index_; }
  const std::optional<int64_t>& begin_index() const { return begin_index_; }
  void set_begin_index(int64_t begin_index);

  /// The current step; at the start of a run the begin index, or else where the timestep stands. An element
  /// of `timesteps()` stands where its memory is. Any other tensor is looked up by value: the first timestep
  /// is the first place; another that occurs more than once is its second place, as in Python, or with two
  /// stages the first place where a step begins.
  /// @throws TensorError if the timestep is none of `timesteps()`
  int64_t index(const Tensor& timestep, std::string_view where) const;
  /// `index`, remembered.
  int64_t enter(const Tensor& timestep, std::string_view where);
  void advance() { ++*step_index_; }

  /// The sigma of each sample, shaped to broadcast over the samples, in their dtype: that of the timestep in
  /// this run, or else of that training timestep. As in Python, where a begin index was set all samples have
  /// the sigma of the current step, before the first step that of the begin index.
  /// @param training_sigmas float32 `[T]`, may be undefined for schedulers that have no training timesteps
  Tensor per_sample_sigmas(const Tensor& timesteps, const Tensor& samples, const Tensor& training_sigmas,
                           std::string_view where) const;

 private:
  int64_t position(double timestep) const;
  int64_t place_of(const Tensor& timestep, std::string_view where) const;

  Tensor sigmas_;
  std::vector<float> host_;
  TimestepSchedule timesteps_;
  int64_t stages_ = 1;
  std::optional<int64_t> step_index_;
  std::optional<int64_t> begin_index_;
};

}  // namespace diffusers

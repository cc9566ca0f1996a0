#include <diffusers/schedulers/noise_schedule.h>
#include <diffusers/schedulers/scheduler.h>

#include <ATen/ATen.h>

#include "core/require.h"

namespace diffusers {
namespace {

[[noreturn]] void lacks(const Scheduler& scheduler, std::string_view member) {
  fail("{} has no {}", scheduler.class_name(), member);
}

Tensor scalar_timestep(const at::Scalar& timestep) {
  return at::scalar_tensor(timestep, timestep.isFloatingPoint() ? at::kDouble : at::kLong);
}

}  // namespace

at::Tensor Timesteps::Iterator::operator*() const { return tensor_->select(0, index_); }

Timesteps::Iterator Timesteps::end() const { return {this, defined() && dim() > 0 ? size(0) : 0}; }

Tensor Scheduler::betas() const {
  if (const NoiseSchedule* schedule = noise_schedule()) return schedule->betas();
  lacks(*this, "betas");
}
Tensor Scheduler::alphas_cumprod() const {
  if (const NoiseSchedule* schedule = noise_schedule()) return schedule->alphas_cumprod();
  lacks(*this, "alphas_cumprod");
}
Tensor Scheduler::final_alpha_cumprod() const { lacks(*this, "final_alpha_cumprod"); }
Tensor Scheduler::sigmas() const { lacks(*this, "sigmas"); }

Tensor Scheduler::scale_model_input(const Tensor& sample, const Tensor& /*timestep*/) const { return sample; }

Tensor Scheduler::scale_model_input(const Tensor& sample, const at::Scalar& timestep) const {
  return scale_model_input(sample, scalar_timestep(timestep));
}

Tensor Scheduler::add_noise(const Tensor&, const Tensor&, const Tensor&) const { lacks(*this, "add_noise"); }
Tensor Scheduler::get_velocity(const Tensor&, const Tensor&, const Tensor&) const {
  lacks(*this, "get_velocity");
}
Tensor Scheduler::scale_noise(const Tensor&, const Tensor&, const Tensor&) const {
  lacks(*this, "scale_noise");
}
void Scheduler::set_timesteps(int64_t num_inference_steps, at::Device device) {
  set_timesteps(num_inference_steps, SetTimestepsOptions{.device = device});
}

int64_t Scheduler::previous_timestep(int64_t /*timestep*/) const { lacks(*this, "previous_timestep"); }

void Scheduler::set_begin_index(int64_t /*begin_index*/) { lacks(*this, "set_begin_index"); }

SchedulerOutput Scheduler::step(const Tensor& model_output, const at::Scalar& timestep, const Tensor& sample,
                                const StepOptions& options) {
  return step(model_output, scalar_timestep(timestep), sample, options);
}

}  // namespace diffusers

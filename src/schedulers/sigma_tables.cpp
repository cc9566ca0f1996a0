// Looks up the sigma of each sample of a batch on the device. The tables are uploaded once, so noising a
// batch neither reads from a device nor copies to it.

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <utility>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/schedulers/sigma_run.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "core/require.h"
#include "schedulers/step_math.h"

namespace diffusers {

/// Tables of a device. A place is an index into the levels: 0 is NaN, for an unknown timestep; then come the
/// sigmas of the run, then those of the training timesteps.
struct SigmaRun::DeviceTables {
  /// The places of the timesteps on one device.
  struct Places {
    at::Device device = at::kCPU;
    bool with_training = false;
    std::vector<double> host_timesteps;  ///< sorted timesteps with a sigma
    Tensor timesteps;                    ///< `host_timesteps` on the device
    Tensor places;                       ///< places of `timesteps`
    Tensor steps;                        ///< places of timesteps()[0], timesteps()[1], ...
    Tensor training;                     ///< places of the training timesteps 0, 1, ..., T - 1
  };

  std::mutex mutex;
  std::vector<Places> places;  // rarely more than two, so a linear search is enough
  DeviceTable levels;
  DeviceTable levels_with_training;
};

std::shared_ptr<SigmaRun::DeviceTables> SigmaRun::make_tables() { return std::make_shared<DeviceTables>(); }

/// Returns the first position of the timesteps in `timesteps()` if they are an element or a slice of it, else
/// -1.
int64_t SigmaRun::first_of_slice(const Tensor& timesteps) const {
  const auto places = timesteps_.places_of(timesteps);
  if (!places || places->empty()) return -1;
  for (std::size_t i = 0; i < places->size(); ++i)
    if ((*places)[i] != places->front() + static_cast<int64_t>(i)) return -1;
  return places->front();
}

Tensor SigmaRun::places(const Tensor& timesteps, const Tensor& samples, int64_t training_count,
                        std::string_view where) const {
  require<TensorError>(
      timesteps.defined() && (timesteps.numel() == 1 || timesteps.numel() == samples.size(0)),
      "{}: timesteps are {}, expected one for each of the {} samples", where, describe(timesteps),
      samples.size(0));
  const at::Device device = samples.device();
  DeviceTables::Places table;
  {
    const std::lock_guard lock(tables_->mutex);
    for (const auto& each : tables_->places)
      if (each.device == device && each.with_training == (training_count > 0)) table = each;
    if (!table.steps.defined()) {
      // A training timestep that is part of the run has the sigma of the run.
      std::vector<double> known = timesteps_.values();
      std::sort(known.begin(), known.end());
      known.erase(std::unique(known.begin(), known.end()), known.end());
      std::vector<int64_t> training(static_cast<std::size_t>(training_count));
      for (int64_t t = 0; t < training_count; ++t)
        training[static_cast<std::size_t>(t)] = 1 + num_sigmas() + t;
      std::vector<std::pair<double, int64_t>> distinct;
      for (const double t : known) {
        const int64_t place = 1 + position(t);
        distinct.emplace_back(t, place);
        if (std::nearbyint(t) == t && t >= 0 && t < static_cast<double>(training_count))
          training[static_cast<std::size_t>(t)] = place;
      }
      for (int64_t t = 0; t < training_count; ++t)
        if (training[static_cast<std::size_t>(t)] == 1 + num_sigmas() + t)
          distinct.emplace_back(static_cast<double>(t), 1 + num_sigmas() + t);
      std::sort(distinct.begin(), distinct.end());
      std::vector<int64_t> places;
      for (const auto& [t, place] : distinct) {
        table.host_timesteps.push_back(t);
        places.push_back(place);
      }
      const at::NoGradGuard no_grad;
      table.device = device;
      table.with_training = training_count > 0;
      table.timesteps = at::tensor(table.host_timesteps, at::kDouble).to(device);
      table.places = at::tensor(places, at::kLong).to(device);
      table.steps = at::arange(1, timesteps_.size() + 1, at::TensorOptions(device).dtype(at::kLong));
      table.training = at::tensor(training, at::kLong).to(device);
      tables_->places.push_back(table);
    }
  }
  const int64_t first = first_of_slice(timesteps);
  if (first >= 0) return table.steps.narrow(0, first, timesteps.numel());
  if (training_count > 0 && at::isIntegralType(timesteps.scalar_type(), /*includeBool=*/false))
    return table.training.gather(0, per_sample_timesteps(timesteps, samples, training_count));
  if (timesteps.is_cpu()) {
    for (const double t : timesteps_.values_of(timesteps))
      require<TensorError>(std::binary_search(table.host_timesteps.begin(), table.host_timesteps.end(), t),
                           "{}: timestep {} is none of timesteps()", where, t);
  }
  const Tensor wanted =
      timesteps.flatten().to(at::TensorOptions(device).dtype(at::kDouble), /*non_blocking=*/true);
  return wanted.unsqueeze(1).eq(table.timesteps.unsqueeze(0)).mul(table.places).amax(1);
}

Tensor SigmaRun::per_sample_sigmas(const Tensor& timesteps, const Tensor& samples,
                                   const TrainingSigmas& training, std::string_view where) const {
  if (begin_index_) {
    require<TensorError>(
        timesteps.defined() && (timesteps.numel() == 1 || timesteps.numel() == samples.size(0)),
        "{}: timesteps are {}, expected one for each of the {} samples", where, describe(timesteps),
        samples.size(0));
    return at::full({}, sigma(step_index_ ? *step_index_ : *begin_index_), samples.options());
  }
  const bool with_training = training.count > 0;
  const Tensor indices = places(timesteps, samples, training.count, where);
  DeviceTable levels;
  {
    const std::lock_guard lock(tables_->mutex);
    DeviceTable& table = with_training ? tables_->levels_with_training : tables_->levels;
    if (!table.host().defined()) {
      const at::NoGradGuard no_grad;
      std::vector<Tensor> parts{at::full({1}, std::numeric_limits<float>::quiet_NaN(), at::kFloat), sigmas()};
      if (with_training) parts.push_back(training.sigmas());
      table = DeviceTable(at::cat(parts));
    }
    levels = table;
  }
  return per_sample(levels.on(samples.device(), samples.scalar_type()), indices, samples.dim());
}

Tensor SigmaRun::per_sample_positions(const Tensor& timesteps, const Tensor& samples,
                                      std::string_view where) const {
  return places(timesteps, samples, 0, where) - 1;
}

}  // namespace diffusers

#include "schedulers/dpm_solver_math.h"

#include <cmath>

#include <ATen/ATen.h>

namespace diffusers {
inline namespace internal {

Tensor dpm_solver_update(AlgorithmType algorithm, SolverType solver, const NoiseLevel& t, const NoiseLevel& s,
                         const Tensor& sample, const Tensor& d0, const Tensor& d1, const Tensor& d2,
                         const Tensor& noise) {
  const float h = t.lambda() - s.lambda();
  if (t.alpha == s.alpha && t.sigma == s.sigma) return sample;  // some schedules end with two equal levels
  // Towards more noise, as after the level of zero terminal SNR, the stochastic forms have a negative
  // variance.
  if (h < 0 && algorithm == AlgorithmType::kSdeDpmsolver) algorithm = AlgorithmType::kDpmsolver;
  if (h < 0 && algorithm == AlgorithmType::kSdeDpmsolverPlusPlus)
    algorithm = AlgorithmType::kDpmsolverPlusPlus;
  // The third order uses the exact integral of its linear term.
  const bool midpoint = solver == SolverType::kMidpoint && !d2.defined();
  float scale = 0;
  float c0 = 0;
  float c1 = 0;
  float c2 = 0;
  float noise_scale = 0;
  switch (algorithm) {
    case AlgorithmType::kDpmsolver: {  // Lu et al. 2022, eq. 3.7 and its higher orders
      const float e = torch_exp(h) - 1.0f;
      scale = t.alpha / s.alpha;
      c0 = -t.sigma * e;
      c1 = midpoint ? -0.5f * (t.sigma * e) : -t.sigma * (e / h - 1.0f);
      c2 = -t.sigma * ((e - h) / (h * h) - 0.5f);
      break;
    }
    case AlgorithmType::kSdeDpmsolver: {
      const float e = torch_exp(h) - 1.0f;
      scale = t.alpha / s.alpha;
      c0 = -2.0f * (t.sigma * e);
      c1 = midpoint ? -t.sigma * e : -2.0f * (t.sigma * (e / h - 1.0f));
      noise_scale = t.sigma * torch_sqrt(torch_exp(2 * h) - 1.0f);
      break;
    }
    case AlgorithmType::kSdeDpmsolverPlusPlus: {
      const float e = 1.0f - torch_exp(-2.0f * h);
      scale = t.sigma / s.sigma * torch_exp(-h);
      c0 = t.alpha * e;
      c1 = midpoint ? 0.5f * (t.alpha * e) : t.alpha * (e / (-2.0f * h) + 1.0f);
      c2 = t.alpha * ((e - 2.0f * h) / (4.0f * h * h) - 0.5f);
      noise_scale = t.sigma * torch_sqrt(e);
      break;
    }
    default: {  // DPM-Solver++, Lu et al. 2022b, eq. 4.5 and algorithm 2
      const float e = torch_exp(-h) - 1.0f;
      scale = t.sigma / s.sigma;
      c0 = -t.alpha * e;
      c1 = midpoint ? -0.5f * (t.alpha * e) : t.alpha * (e / h + 1.0f);
      c2 = -t.alpha * ((e + h) / (h * h) - 0.5f);
      break;
    }
  }
  if (h == 0) return at::mul(sample, scale);  // the logarithms of the levels are equal
  std::vector<ScaledTerm> terms{{scale, sample}, {c0, d0}};
  if (d1.defined()) terms.push_back({c1, d1});
  if (d2.defined()) terms.push_back({c2, d2});
  if (noise.defined() && is_stochastic(algorithm)) terms.push_back({noise_scale, noise});
  return scaled_sum(terms);
}

Tensor multistep_update(AlgorithmType algorithm, SolverType solver, const std::vector<NoiseLevel>& levels,
                        const std::vector<Tensor>& outputs, const Tensor& sample, const Tensor& noise) {
  // A noise level that occurs twice in a run adds nothing to a slope.
  std::size_t order = 1;
  while (order < outputs.size() && levels[order].lambda() != levels[order + 1].lambda()) ++order;
  const Tensor& m0 = outputs[0];
  if (order == 1)
    return dpm_solver_update(algorithm, solver, levels[0], levels[1], sample, m0, {}, {}, noise);
  const float h = levels[0].lambda() - levels[1].lambda();
  const float r0 = (levels[1].lambda() - levels[2].lambda()) / h;
  const Tensor d1_0 = scaled_in_place(at::sub(m0, outputs[1]), 1.0f / r0);
  if (order == 2)
    return dpm_solver_update(algorithm, solver, levels[0], levels[1], sample, m0, d1_0, {}, noise);
  const float r1 = (levels[2].lambda() - levels[3].lambda()) / h;
  const Tensor d2 =
      scaled_in_place(at::sub(outputs[1], outputs[2]), 1.0f / r1);  // D1_1, then the difference D1_0 - D1_1
  d2.neg_().add_(d1_0);
  const Tensor d1 = add_scaled(d1_0, r0 / (r0 + r1), d2);
  scaled_in_place(d2, 1.0f / (r0 + r1));
  return dpm_solver_update(algorithm, solver, levels[0], levels[1], sample, m0, d1, d2, noise);
}

Tensor singlestep_update(AlgorithmType algorithm, SolverType solver, const std::vector<NoiseLevel>& levels,
                         const std::vector<Tensor>& outputs, const Tensor& sample, const Tensor& noise) {
  const auto order = outputs.size();
  // The same applies to a level between the ends of the step.
  for (std::size_t k = 1; k < order; ++k) {
    if (levels[k].lambda() != levels[k + 1].lambda()) continue;
    std::vector<NoiseLevel> fewer_levels = levels;
    std::vector<Tensor> fewer_outputs = outputs;
    fewer_levels.erase(fewer_levels.begin() + static_cast<std::ptrdiff_t>(k));
    fewer_outputs.erase(fewer_outputs.begin() + static_cast<std::ptrdiff_t>(k) - 1);
    return singlestep_update(algorithm, solver, fewer_levels, fewer_outputs, sample, noise);
  }
  const NoiseLevel& start = levels[order];
  const Tensor& m_start = outputs[order - 1];
  if (order == 1)
    return dpm_solver_update(algorithm, solver, levels[0], start, sample, m_start, {}, {}, noise);
  const float h = levels[0].lambda() - start.lambda();
  const float r0 = (levels[1].lambda() - start.lambda()) / h;
  const Tensor d1_last = scaled_in_place(at::sub(outputs[0], m_start), 1.0f / r0);
  if (order == 2)
    return dpm_solver_update(algorithm, solver, levels[0], start, sample, m_start, d1_last, {}, noise);
  // In third order the midpoint form drops D2 and uses the exact integral of the linear term.
  if (solver == SolverType::kMidpoint)
    return dpm_solver_update(algorithm, SolverType::kHeun, levels[0], start, sample, m_start, d1_last, {},
                             noise);
  const float r1 = (levels[2].lambda() - start.lambda()) / h;
  const Tensor d1_first = scaled_in_place(at::sub(outputs[1], m_start), 1.0f / r1);
  const Tensor d2 = at::sub(d1_last, d1_first).mul_(2.0f).div_(r0 - r1);
  const Tensor d1 = weighted_sum(r0, d1_first, -r1, d1_last).div_(r0 - r1);
  return dpm_solver_update(algorithm, solver, levels[0], start, sample, m_start, d1, d2, noise);
}

int64_t clipped_timestep_count(std::string_view who, const NoiseSchedule& schedule,
                               int64_t num_train_timesteps, double lambda_min_clipped) {
  require<ConfigError>(!std::isnan(lambda_min_clipped), "{}: lambda_min_clipped is NaN", who);
  const Tensor& alphas_cumprod = schedule.alphas_cumprod();
  const Tensor lambda = alphas_cumprod.sqrt().log() - (1 - alphas_cumprod).sqrt().log();
  const int64_t clipped = (lambda < lambda_min_clipped).sum().item<int64_t>();
  require<ConfigError>(clipped < num_train_timesteps,
                       "{}: lambda_min_clipped is {}, which leaves no timestep", who, lambda_min_clipped);
  return num_train_timesteps - clipped;
}

}  // namespace internal
}  // namespace diffusers

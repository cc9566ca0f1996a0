#pragma once

// Denoisers defined by formulas, for tests of EDM.

#include <functional>
#include <memory>
#include <utility>

#include <diffusers/data/dataset.h>
#include <diffusers/training/edm.h>
#include <diffusers/training/trainable_denoiser.h>

#include <ATen/ATen.h>

namespace diffusers::test {

/// A network F that is a formula of the scaled sample and c_noise.
using Formula = std::function<Tensor(const Tensor& sample, const Tensor& timesteps)>;

inline TrainableDenoiser formula_model(Formula formula) {
  return {make_saved_module(std::make_shared<torch::nn::Module>("Formula")),
          [formula = std::move(formula)](const Tensor& sample, const Tensor& timesteps, const Conditioning&) {
            return formula(sample, timesteps);
          }};
}

/// The network of tests/reference/edm.py.
inline Tensor reference_network(const Tensor& x, const Tensor& timesteps) {
  const Tensor c_noise = timesteps.view({-1, 1, 1, 1});
  return (3 * x + c_noise).sin() + 0.25 * x * c_noise;
}

inline Batch batch_of(const Tensor& images) {
  Batch batch;
  batch.images = images;
  return batch;
}

/// A task whose noise levels and noise are given and not drawn.
class GivenEDMTask : public EDMTask {
 public:
  GivenEDMTask(Formula formula, const EDMConfig& config, Tensor sigma, Tensor noise)
      : EDMTask(formula_model(std::move(formula)), config),
        sigma_(std::move(sigma)),
        noise_(std::move(noise)) {
    configure({});
  }

 protected:
  Draw draw(const Tensor&) override { return {noise_, noise_, sigma_}; }

 private:
  Tensor sigma_, noise_;
};

}  // namespace diffusers::test

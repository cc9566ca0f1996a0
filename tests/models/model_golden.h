#pragma once

// Shared functions for the comparisons of models with Python. tests/reference/models.py is the Python side.

#include <string>

#include <diffusers/core/tensor.h>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/nn/module.h>
#include <torch/types.h>
#include <zlib.h>

#include "core/json.h"
#include "support/golden.h"
#include "support/gradients.h"

namespace diffusers::test {

// The order of summation differs from Python's, which gives a few float32 rounding errors for each layer.
// They are relative to the largest element of a tensor, since an element near zero is a difference of larger
// numbers.
inline constexpr double kFloat32Tolerance = 1e-4;
inline constexpr double kFloat64Tolerance = 1e-9;

/// Returns cos(0), cos(1), ..., which Python uses to change parameters and as the gradient of the output.
inline Tensor pattern(at::IntArrayRef shape, at::ScalarType dtype = at::kFloat) {
  int64_t count = 1;
  for (const auto size : shape) count *= size;
  return torch::cos(torch::arange(count, torch::kFloat32)).reshape(shape).to(dtype);
}

/// Changes the parameters that are initialised to exact zeros and ones.
template <class Holder>
void perturb(Holder& model) {
  const torch::NoGradGuard no_grad;
  for (auto& item : model->named_parameters()) {
    const auto& name = item.key();
    if ((name.find("norm") != std::string::npos && name.find(".linear.") == std::string::npos) ||
        name.starts_with("controlnet_"))
      item.value() += 0.1 * pattern(item.value().sizes());
  }
}

inline void expect_close_to_scale(const Tensor& actual, const Tensor& expected, double tolerance,
                                  const std::string& label) {
  const double scale = expected.numel() > 0 ? expected.abs().max().item<double>() : 0;
  expect_close(actual, expected, tolerance, tolerance * scale, label);
}

/// Checks that a new model has Python's parameters: names, shapes, order and bits.
template <class Holder>
void expect_initial_weights(const Holder& model, const Json& entry) {
  uLong bytes = 0;
  uLong layout = 0;
  for (const auto& item : model->named_parameters()) {
    const auto tensor = item.value().detach().contiguous();
    bytes =
        crc32(bytes, static_cast<const Bytef*>(tensor.const_data_ptr()), static_cast<uInt>(tensor.nbytes()));
    const auto line = fmt::format("{} {}\n", item.key(), shape_string(tensor.sizes()));
    layout = crc32(layout, reinterpret_cast<const Bytef*>(line.data()), static_cast<uInt>(line.size()));
  }
  EXPECT_EQ(layout, entry["layout_crc32"].get<uint64_t>()) << "names, shapes or their order";
  EXPECT_EQ(bytes, entry["weights_crc32"].get<uint64_t>()) << "bits of the weights";
  EXPECT_EQ(model->num_parameters(), entry["num_parameters"].get<int64_t>());
}

}  // namespace diffusers::test

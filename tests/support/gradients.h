#pragma once

// Comparison of gradients with those that Python computed. tests/reference/gradients.py has the other side.
//
// A gradient of at most 512 elements is compared element by element. Of a larger gradient g of n elements,
// Python stores the norm and the projections on eight random directions. The entries of a direction are
// independent, with mean 0 and variance 1/n, and do not depend on g. A difference d between the two gradients
// therefore moves each projection by a random number with mean 0 and standard deviation |d| / sqrt(n),
// whatever d is.
//
// The limit: rounding gives |d| <= tolerance * |g|. A projection may differ by five standard deviations of
// that, 5 * tolerance * |g| / sqrt(n).
//
// Why a permutation cannot pass: d passes one projection if a normal number of its standard deviation falls
// within the limit. The probability is about 4 * tolerance * |g| / |d|, and its eighth power for all eight.
//   - A permuted or transposed gradient has |d| of about |g|. With float32's tolerance of 1e-4, the
//     probability is (4e-4)^8 = 7e-28.
//   - Two swapped elements that differ by twice the root mean square have |d| = sqrt(8 / n) |g|. With
//     n = 100,000 the probability is (0.045)^8 = 2e-11. A smaller difference has a larger probability.
// The sum and the sum of absolute values are the same for every permutation, so they cannot replace this.

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/core/tensor.h>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/nn/module.h>
#include <torch/types.h>

#include "support/golden.h"

namespace diffusers::test {

inline constexpr int64_t kLargestWholeGradient = 512;

/// Returns a random direction of `count` elements in float64, with an expected norm of 1. It equals Python's
/// bit for bit.
inline Tensor random_direction(int64_t count, uint64_t seed) {
  return (torch::rand({count}, make_generator(seed), torch::kDouble) - 0.5) *
         std::sqrt(12.0 / static_cast<double>(count));
}

/// The stored form of the gradient of one parameter.
struct ExpectedGradient {
  bool exists = false;
  int64_t size = 0;
  Tensor elements;     ///< [size], all elements of a small gradient
  double norm = 0;     ///< norm of a large gradient
  Tensor projections;  ///< [8] in float64, projections of a large gradient
};

/// @param key prefix of the case's tensors, such as "plain/"
/// @return the gradients of all parameters, in their order
inline std::vector<ExpectedGradient> read_gradients(const Golden& golden, const std::string& key) {
  const Tensor sizes = golden[key + "gradients/sizes"].to(at::kLong);
  const Tensor& elements = golden[key + "gradients/elements"];
  std::vector<ExpectedGradient> gradients;
  int64_t offset = 0;
  int64_t row = 0;
  for (int64_t i = 0; i < sizes.numel(); ++i) {
    auto& gradient = gradients.emplace_back();
    gradient.size = sizes[i].item<int64_t>();
    gradient.exists = gradient.size != 0;
    if (gradient.size <= kLargestWholeGradient) {
      gradient.elements = elements.narrow(0, offset, gradient.size);
      offset += gradient.size;
    } else {
      gradient.norm = golden[key + "gradients/norms"][row].item<double>();
      gradient.projections = golden[key + "gradients/projections"][row++];
    }
  }
  EXPECT_EQ(offset, elements.numel()) << key;
  return gradients;
}

/// Compares every element of a small gradient, or norm and projections of a large gradient. Reports at most
/// one failure.
/// @param tolerance relative to the largest element of a small gradient, to the norm of a large one
inline void expect_gradient(const Tensor& actual, const ExpectedGradient& expected, double tolerance,
                            const std::string& label) {
  if (actual.defined() != expected.exists || (expected.exists && actual.numel() != expected.size)) {
    ADD_FAILURE() << label << ": got " << describe(actual) << ", expected "
                  << (expected.exists ? fmt::format("{} elements", expected.size) : "no gradient");
    return;
  }
  if (!expected.exists) return;
  if (expected.elements.defined()) {
    const double scale = expected.elements.abs().max().item<double>();
    expect_close(actual, expected.elements.view(actual.sizes()), tolerance, tolerance * scale, label);
    return;
  }
  const Tensor flat = actual.detach().to(at::kCPU, at::kDouble).flatten();
  const double norm = flat.norm().item<double>();
  if (!(std::abs(norm - expected.norm) <= tolerance * expected.norm)) {
    ADD_FAILURE() << label << ": got the norm " << norm << ", expected " << expected.norm << " (tolerance "
                  << tolerance << ")";
    return;
  }
  // The limit is five standard deviations of the rounding error of a projection, as explained at the top of
  // this file.
  const double limit = 5 * tolerance * expected.norm / std::sqrt(static_cast<double>(expected.size));
  for (int64_t i = 0; i < expected.projections.numel(); ++i) {
    const double want = expected.projections[i].item<double>();
    const double got = flat.dot(random_direction(expected.size, static_cast<uint64_t>(i + 1))).item<double>();
    if (std::abs(got - want) <= limit) continue;
    ADD_FAILURE() << label << ": elements differ or stand in another order: got the projection " << got
                  << " on direction " << i + 1 << ", expected " << want << " (limit " << limit << ")";
    return;
  }
}

/// Returns true if a parameter is the bias of the only keys of an attention layer. Its gradient is exactly
/// zero: it shifts all scores of a query equally, and the softmax is invariant to that.
template <class Parameters>
bool is_key_bias(const std::string& name, const Parameters& parameters) {
  const auto end_with = [&](std::string_view own, std::string_view other) {
    return parameters.contains(name.substr(0, name.size() - own.size()) + std::string(other));
  };
  if (name.ends_with("add_k_proj.bias")) return !end_with("add_k_proj.bias", "to_k.bias");
  if (name.ends_with("to_k.bias")) return !end_with("to_k.bias", "add_k_proj.bias");
  return name.ends_with("k_proj.bias");
}

/// Returns the weight that belongs to a bias. Its gradient sums the same terms with factors that do not
/// cancel them. Its size therefore bounds the rounding noise in the gradient of a key bias.
template <class Parameters>
Tensor weight_of_key_bias(const std::string& name, const Parameters& parameters) {
  return parameters[name.substr(0, name.size() - std::string_view("bias").size()) + "weight"];
}

/// Compares the gradients of all parameters with Python's.
inline void expect_gradients(const torch::nn::Module& model, const Golden& golden, const std::string& key,
                             double tolerance) {
  const auto parameters = model.named_parameters();
  const auto expected = read_gradients(golden, key);
  ASSERT_EQ(parameters.size(), expected.size()) << key;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const auto& name = parameters[i].key();
    const Tensor& gradient = parameters[i].value().grad();
    const auto label = key + " gradient of " + name;
    if (!is_key_bias(name, parameters) || !gradient.defined()) {
      expect_gradient(gradient, expected[i], tolerance, label);
      continue;
    }
    const double scale = weight_of_key_bias(name, parameters).grad().abs().max().item<double>();
    expect_close(gradient, torch::zeros_like(gradient), 0, tolerance * scale, label);
  }
}

}  // namespace diffusers::test

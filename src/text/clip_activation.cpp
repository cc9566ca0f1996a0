#include "text/clip_activation.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "core/require.h"

namespace diffusers {
inline namespace internal {
namespace clip {
namespace {

const double kSqrtTwoOverPi = std::sqrt(2.0 / M_PI);

Tensor gelu_new(const Tensor& x) {
  return 0.5 * x * (1.0 + at::tanh(kSqrtTwoOverPi * (x + 0.044715 * at::pow(x, 3.0))));
}

Tensor gelu_fast(const Tensor& x) {
  return 0.5 * x * (1.0 + at::tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)));
}

/// x sigmoid(1.702 x). Without gradients the factor is computed in place, which takes half of the memory.
Tensor quick_gelu(const Tensor& x) {
  const Tensor scaled = 1.702 * x;
  return at::GradMode::is_enabled() ? x * at::sigmoid(scaled) : scaled.sigmoid_().mul_(x);
}

/// The Laplace activation of Ma et al. 2022, "Mega", with its constants.
Tensor laplace(const Tensor& x) {
  return 0.5 * (1.0 + at::erf((x - 0.707107) / (0.282095 * std::sqrt(2.0))));
}

using Entry = std::pair<std::string_view, ActivationFunction>;
const std::array<Entry, 21> kActivations{{
    {"gelu", [](const Tensor& x) { return at::gelu(x); }},
    {"gelu_10", [](const Tensor& x) { return at::clamp(at::gelu(x), -10, 10); }},
    {"gelu_accurate", gelu_new},
    {"gelu_fast", gelu_fast},
    {"gelu_new", gelu_new},
    {"gelu_python", [](const Tensor& x) { return at::gelu(x); }},
    {"gelu_python_tanh", [](const Tensor& x) { return at::gelu(x, "tanh"); }},
    {"gelu_pytorch_tanh", [](const Tensor& x) { return at::gelu(x, "tanh"); }},
    {"hardswish", [](const Tensor& x) { return at::hardswish(x); }},
    {"laplace", laplace},
    {"leaky_relu", [](const Tensor& x) { return at::leaky_relu(x); }},
    {"linear", [](const Tensor& x) { return x; }},
    {"mish", [](const Tensor& x) { return at::mish(x); }},
    {"quick_gelu", quick_gelu},
    {"relu", [](const Tensor& x) { return at::relu(x); }},
    {"relu2", [](const Tensor& x) { return at::square(at::relu(x)); }},
    {"relu6", [](const Tensor& x) { return at::relu6(x); }},
    {"sigmoid", [](const Tensor& x) { return at::sigmoid(x); }},
    {"silu", [](const Tensor& x) { return at::silu(x); }},
    {"sqrtsoftplus", [](const Tensor& x) { return at::sqrt(at::softplus(x)); }},
    {"tanh", [](const Tensor& x) { return at::tanh(x); }},
}};

}  // namespace

ActivationFunction activation_function(std::string_view hidden_act) {
  const auto name = hidden_act == "swish" ? std::string_view("silu") : hidden_act;
  const auto* found = std::find_if(kActivations.begin(), kActivations.end(),
                                   [&](const Entry& entry) { return entry.first == name; });
  if (found != kActivations.end()) return found->second;
  std::string names;
  for (const auto& entry : kActivations) names += fmt::format(" \"{}\"", entry.first);
  fail<ConfigError>("hidden_act is \"{}\", expected one of:{} \"swish\"", hidden_act, names);
}

}  // namespace clip
}  // namespace internal
}  // namespace diffusers

#pragma once

// The types of the arrays that kernels read and write.

namespace diffusers {
inline namespace internal {
namespace cuda {

/// Type of activations and their gradients. All other arrays are float32.
enum class Element { kFloat, kHalf, kBFloat16 };

/// Returns the size of an element in bytes.
constexpr int element_size(Element element) { return element == Element::kFloat ? 4 : 2; }

}  // namespace cuda
}  // namespace internal
}  // namespace diffusers

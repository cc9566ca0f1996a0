#pragma once

#include <cstdint>

#include "ops/cpu/matrix_product.h"

namespace diffusers {
inline namespace internal {
namespace cpu {

/// Elements from each matrix to that of the next product.
struct ProductSteps {
  int64_t left = 0;
  int64_t right = 0;
  int64_t to = 0;
};

/// Computes `count` products of the same sizes on LibTorch's threads. The result does not depend on the
/// number of threads.
void multiply(const MatrixKernel& kernel, const MatrixProduct& first, int64_t count = 1,
              const ProductSteps& steps = {});

}  // namespace cpu
}  // namespace internal
}  // namespace diffusers

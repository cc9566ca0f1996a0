#include "ops/cpu/kernels.h"

namespace diffusers {
inline namespace internal {
namespace cpu {

void double_rows(int64_t width, const float* from, float* to, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const float* pixels = from + row * width;
    float* first = to + 4 * row * width;
    for (int64_t i = 0; i < width; ++i) {
      first[2 * i] = pixels[i];
      first[2 * i + 1] = pixels[i];
    }
    __builtin_memcpy(first + 2 * width, first, static_cast<unsigned long>(2 * width) * sizeof(float));
  }
}

void halve_rows(int64_t width, const float* from, float* to, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const float* first = from + 4 * row * width;
    const float* second = first + 2 * width;
    float* sums = to + row * width;
    for (int64_t i = 0; i < width; ++i)
      sums[i] = ((first[2 * i] + first[2 * i + 1]) + second[2 * i]) + second[2 * i + 1];
  }
}

}  // namespace cpu
}  // namespace internal
}  // namespace diffusers

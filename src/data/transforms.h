#pragma once

#include <cstdint>
#include <span>

#include <diffusers/core/tensor.h>
#include <diffusers/data/image_folder.h>

#include <ATen/core/Tensor.h>

#include "io/image_tensor.h"

namespace diffusers {
inline namespace internal {

/// Random numbers of a sample. They depend only on (seed, index), for any thread and any order of reading.
class ExampleRandom {
 public:
  ExampleRandom(uint64_t seed, int64_t index) : state_(mix(mix(seed) ^ static_cast<uint64_t>(index))) {}
  uint64_t next() { return mix(state_++); }
  /// Draws a number in [0, bound), bound > 0.
  int64_t below(int64_t bound) {
    __extension__ using Wide = unsigned __int128;
    return static_cast<int64_t>(static_cast<Wide>(next()) * static_cast<Wide>(bound) >> 64);
  }
  bool coin() { return next() >> 63 != 0; }

  /// splitmix64 (Steele, Lea, Flood 2014).
  static uint64_t mix(uint64_t value) {
    value += 0x9e3779b97f4a7c15;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
    value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
    return value ^ (value >> 31);
  }

 private:
  uint64_t state_;
};

/// Resizes to the smallest size that covers `height` x `width` and keeps the aspect ratio. For a square it is
/// torchvision's Resize with one number: the shorter side becomes `height`.
Tensor resize_to_cover(const Tensor& images, int64_t height, int64_t width,
                       ImageInterpolation mode = ImageInterpolation::kBilinear);

/// Returns the indices as a tensor.
/// @throws TensorError if an index is out of [0, size)
Tensor checked_indices(std::span<const int64_t> indices, int64_t size);

}  // namespace internal
}  // namespace diffusers

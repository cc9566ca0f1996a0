// The filters of Pillow's Image.resize for images of 8 bits (src/libImaging/Resample.c and Geometry.c).

#include "data/resample.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <ATen/ATen.h>

#include "io/image_tensor.h"

namespace diffusers {
inline namespace internal {
namespace {

/// Bits of a weight behind the binary point. A sum of 8-bit pixels and weights then fits into 32 bits.
constexpr int kPrecisionBits = 32 - 8 - 2;

double box_filter(double x) { return x > -0.5 && x <= 0.5 ? 1.0 : 0.0; }

double hamming_filter(double x) {
  x = std::abs(x);
  if (x == 0.0) return 1.0;
  if (x >= 1.0) return 0.0;
  x *= M_PI;
  // The numbers are float constants in Pillow.
  return std::sin(x) / x * (0.54F + 0.46F * std::cos(x));
}

double bicubic_filter(double x) {
  constexpr double kA = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((kA + 2.0) * x - (kA + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * kA;
  return 0.0;
}

double sinc(double x) {
  if (x == 0.0) return 1.0;
  x *= M_PI;
  return std::sin(x) / x;
}

double lanczos_filter(double x) { return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0; }

/// A filter and half its width, in pixels of the larger image.
struct Filter {
  double (*weight)(double) = nullptr;
  double support = 0;
};

Filter filter_of(ImageInterpolation mode) {
  switch (mode) {
    case ImageInterpolation::kBox:
      return {box_filter, 0.5};
    case ImageInterpolation::kHamming:
      return {hamming_filter, 1.0};
    case ImageInterpolation::kBicubic:
      return {bicubic_filter, 2.0};
    default:
      return {lanczos_filter, 3.0};
  }
}

/// The pixels of which a pixel of the result is the weighted sum.
struct Window {
  int64_t first = 0;
  std::vector<int32_t> weights = {};  // fixed point, kPrecisionBits
};

std::vector<Window> windows_of(int64_t from, int64_t to, const Filter& filter) {
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  const double filter_scale = std::max(scale, 1.0);
  const double support = filter.support * filter_scale;
  std::vector<Window> windows(static_cast<std::size_t>(to));
  std::vector<double> weights;
  for (int64_t i = 0; i < to; ++i) {
    const double center = (static_cast<double>(i) + 0.5) * scale;
    const auto first = std::max<int64_t>(0, static_cast<int64_t>(std::floor(center - support + 0.5)));
    const auto end = std::min<int64_t>(from, static_cast<int64_t>(std::floor(center + support + 0.5)));
    double sum = 0;
    weights.clear();
    for (int64_t x = first; x < end; ++x) {
      weights.push_back(filter.weight((static_cast<double>(x) - center + 0.5) * (1.0 / filter_scale)));
      sum += weights.back();
    }
    Window& window = windows[static_cast<std::size_t>(i)];
    window.first = first;
    for (double weight : weights) {
      if (sum != 0) weight /= sum;
      window.weights.push_back(
          static_cast<int32_t>((weight < 0 ? -0.5 : 0.5) + weight * (int64_t{1} << kPrecisionBits)));
    }
  }
  return windows;
}

/// Resizes the middle dimension of a contiguous `[outer, from, inner]`.
void resample_axis(const uint8_t* in, uint8_t* out, int64_t outer, int64_t from, int64_t inner,
                   const std::vector<Window>& windows) {
  const auto to = static_cast<int64_t>(windows.size());
  std::vector<int32_t> sums(static_cast<std::size_t>(inner));
  for (int64_t o = 0; o < outer; ++o)
    for (int64_t i = 0; i < to; ++i) {
      const Window& window = windows[static_cast<std::size_t>(i)];
      std::fill(sums.begin(), sums.end(), 1 << (kPrecisionBits - 1));
      const uint8_t* row = in + (o * from + window.first) * inner;
      for (const int32_t weight : window.weights) {
        for (int64_t k = 0; k < inner; ++k) sums[static_cast<std::size_t>(k)] += row[k] * weight;
        row += inner;
      }
      uint8_t* target = out + (o * to + i) * inner;
      for (int64_t k = 0; k < inner; ++k)
        target[k] =
            static_cast<uint8_t>(std::clamp(sums[static_cast<std::size_t>(k)] >> kPrecisionBits, 0, 255));
    }
}

/// Resizes one dimension of `[N, C, H, W]`.
Tensor resampled(const Tensor& images, int64_t dim, int64_t size, const Filter& filter) {
  const int64_t from = images.size(dim);
  if (from == size) return images;
  std::vector<int64_t> shape = images.sizes().vec();
  shape[static_cast<std::size_t>(dim)] = size;
  Tensor result = at::empty(shape, images.options());
  const int64_t inner = dim == 3 ? 1 : images.size(3);
  const int64_t outer = images.numel() / (from * inner);
  resample_axis(images.const_data_ptr<uint8_t>(), result.mutable_data_ptr<uint8_t>(), outer, from, inner,
                windows_of(from, size, filter));
  return result;
}

/// The pixels that Pillow's NEAREST takes. It adds up the step, and so do we.
Tensor nearest_positions(int64_t from, int64_t to) {
  Tensor positions = at::empty({to}, at::kLong);
  auto* out = positions.mutable_data_ptr<int64_t>();
  const double step = static_cast<double>(from) / static_cast<double>(to);
  double position = step * 0.5;
  for (int64_t i = 0; i < to; ++i, position += step)
    out[i] = std::min<int64_t>(from - 1, static_cast<int64_t>(position));
  return positions;
}

}  // namespace

Tensor resize_with(const Tensor& images, int64_t height, int64_t width, ImageInterpolation mode) {
  if (images.size(2) == height && images.size(3) == width) return images;
  if (mode == ImageInterpolation::kBilinear) return resize_pixels(images, height, width);
  const Tensor pixels = images.contiguous();
  if (mode == ImageInterpolation::kNearest || mode == ImageInterpolation::kNearestExact)
    return pixels.index_select(3, nearest_positions(pixels.size(3), width))
        .index_select(2, nearest_positions(pixels.size(2), height));
  const Filter filter = filter_of(mode);
  return resampled(resampled(pixels, 3, width, filter), 2, height, filter);
}

}  // namespace internal
}  // namespace diffusers

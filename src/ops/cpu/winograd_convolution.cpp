#include "ops/cpu/winograd_convolution.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "core/parallel.h"
#include "ops/cpu/thread_memory.h"

namespace diffusers {
inline namespace internal {
namespace cpu {
namespace {

// Sizes in floats, measured with benchmarks/ops_benchmark.cpp.
constexpr int64_t kSharedWeights = 1 << 14;  // in_channels * out_channels
constexpr int64_t kChunkPoints = 48 * 36;    // points of the tiles of a chunk
constexpr int64_t kChunkInput = 1 << 19;     // transformed input of a chunk
constexpr int64_t kSharedInput = 1 << 20;    // transformed input of all channels
constexpr int64_t kSharedInputTiles = 32;    // smallest number of tiles in such an input

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Rows are cut into parts of nearly equal size.
struct WinogradParts {
  WinogradRows rows;
  int64_t count;
  WinogradRows operator[](int64_t part) const {
    return {rows.begin + rows.count() * part / count, rows.begin + rows.count() * (part + 1) / count};
  }
  int64_t largest() const { return divide_up(rows.count(), count); }
};

/// Cuts rows into chunks whose transformed input fits the cache, at least one for each thread.
WinogradParts winograd_chunks(const WinogradShape& shape, WinogradRows rows, int64_t threads) {
  const int64_t row_points = shape.points() * shape.columns();
  const int64_t fitting =
      std::min(divide_up(kChunkPoints, row_points), kChunkInput / (row_points * shape.input_stride()));
  const int64_t count = divide_up(rows.count(), std::max<int64_t>(1, fitting));
  return {rows, std::min(rows.count(), divide_up(count, threads) * threads)};
}

/// Few channels: the weights of all panels are transformed once, and each chunk of rows is transformed,
/// multiplied and transformed back by one thread. Many channels: a larger part of the input is transformed
/// once, and each panel of weights is transformed and used by one thread. The memory is bounded in both
/// cases.
bool shares_weights(const WinogradShape& shape) {
  return shape.in_channels * shape.out_channels <= kSharedWeights;
}

/// The parts of the second case.
WinogradParts winograd_inputs(const WinogradShape& shape) {
  const int64_t row_points = shape.points() * shape.columns();
  const int64_t fitting = std::max(divide_up(kSharedInputTiles, shape.columns()),
                                   kSharedInput / (row_points * shape.input_stride()));
  return {{0, shape.rows()}, divide_up(shape.rows(), fitting)};
}

WinogradShape winograd_shape(const WinogradKernel& kernel, int64_t tile, const at::Tensor& input,
                             int64_t out_channels) {
  return {.tile = tile,
          .lanes = kernel.lanes,
          .batch = input.size(0),
          .in_channels = input.size(1),
          .out_channels = out_channels,
          .height = input.size(2),
          .width = input.size(3)};
}

/// Calls run(item) for each item on LibTorch's threads.
template <class Run>
void for_each_item(int64_t count, const Run& run) {
  parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) run(item);
  });
}

void transform_inputs(const WinogradKernel& kernel, const WinogradShape& shape, const float* from,
                      WinogradRows rows, float* to) {
  parallel_for(0, shape.in_vectors(), 1, [&](int64_t first, int64_t last) {
    kernel.transform_input(shape, from, rows, first, last, to, own_memory(shape.strip_size()));
  });
}

}  // namespace

int64_t winograd_tile(int64_t height, int64_t width) {
  const auto points = [&](int64_t tile) {
    return divide_up(height, tile) * divide_up(width, tile) * (tile + 2) * (tile + 2);
  };
  return points(2) < points(4) ? 2 : 4;
}

int64_t winograd_items(const WinogradShape& shape) {
  return shares_weights(shape) ? shape.rows() : shape.panels();
}

at::Tensor winograd_convolution(const WinogradKernel& kernel, int64_t tile, const at::Tensor& input,
                                const at::Tensor& weight, const at::Tensor& bias, bool transposed) {
  const auto shape = winograd_shape(kernel, tile, input, weight.size(transposed ? 1 : 0));
  at::Tensor output =
      at::empty({shape.batch, shape.out_channels, shape.height, shape.width}, input.options());
  const auto* from = input.const_data_ptr<float>();
  const auto* filters = weight.const_data_ptr<float>();
  const auto* biases = bias.defined() ? bias.const_data_ptr<float>() : nullptr;
  auto* to = output.mutable_data_ptr<float>();
  const int64_t strip_size = shape.strip_size();
  const int64_t weight_size = shape.weight_size();
  if (shares_weights(shape)) {
    float* weights = shared_memory(shape.panels() * weight_size);
    for_each_item(shape.panels(), [&](int64_t panel) {
      kernel.transform_weight(shape, filters, transposed, panel, weights + panel * weight_size);
    });
    const auto chunks = winograd_chunks(shape, {0, shape.rows()}, at::get_num_threads());
    const int64_t input_size = shape.input_size(chunks.largest());
    const int64_t output_size = shape.output_size(chunks.largest());
    for_each_item(chunks.count, [&](int64_t chunk) {
      float* strip = own_memory(strip_size + input_size + output_size);
      float* points = strip + strip_size;
      float* products = points + input_size;
      kernel.transform_input(shape, from, chunks[chunk], 0, shape.in_vectors(), points, strip);
      for (int64_t panel = 0; panel < shape.panels(); ++panel)
        kernel.convolve(shape, points, weights + panel * weight_size, biases, chunks[chunk], panel, to,
                        products, strip);
    });
    return output;
  }
  const auto parts = winograd_inputs(shape);
  float* points = shared_memory(shape.input_size(parts.largest()));
  const int64_t output_size = shape.output_size(parts.largest());
  for (int64_t part = 0; part < parts.count; ++part) {
    transform_inputs(kernel, shape, from, parts[part], points);
    for_each_item(shape.panels(), [&](int64_t panel) {
      float* strip = own_memory(strip_size + weight_size + output_size);
      float* weights = strip + strip_size;
      kernel.transform_weight(shape, filters, transposed, panel, weights);
      kernel.convolve(shape, points, weights, biases, parts[part], panel, to, weights + weight_size, strip);
    });
  }
  return output;
}

at::Tensor winograd_weight_gradient(const WinogradKernel& kernel, int64_t tile, const at::Tensor& input,
                                    const at::Tensor& grad_output) {
  const auto shape = winograd_shape(kernel, tile, input, grad_output.size(1));
  at::Tensor gradient = at::zeros({shape.out_channels, shape.in_channels, 3, 3}, input.options());
  const auto* from = input.const_data_ptr<float>();
  const auto* grads = grad_output.const_data_ptr<float>();
  auto* to = gradient.mutable_data_ptr<float>();
  const int64_t strip_size = shape.strip_size();
  const int64_t weight_size = shape.weight_size();
  if (shares_weights(shape)) {
    // One sum for each thread. The sums are added in the order of the threads.
    const WinogradParts parts{{0, shape.rows()}, std::min<int64_t>(at::get_num_threads(), shape.rows())};
    const int64_t sums_size = shape.panels() * weight_size;
    float* sums = shared_memory(parts.count * sums_size);
    for_each_item(parts.count, [&](int64_t part) {
      const auto chunks = winograd_chunks(shape, parts[part], 1);
      const int64_t input_size = shape.input_size(chunks.largest());
      float* strip = own_memory(strip_size + input_size + shape.output_size(chunks.largest()));
      float* points = strip + strip_size;
      float* sum = sums + part * sums_size;
      std::fill_n(sum, sums_size, 0.0F);
      for (int64_t chunk = 0; chunk < chunks.count; ++chunk) {
        kernel.transform_input(shape, from, chunks[chunk], 0, shape.in_vectors(), points, strip);
        for (int64_t panel = 0; panel < shape.panels(); ++panel)
          kernel.add_weight_gradient(shape, points, grads, chunks[chunk], panel, sum + panel * weight_size,
                                     points + input_size, strip);
      }
    });
    for_each_item(shape.panels(), [&](int64_t panel) {
      for (int64_t part = 0; part < parts.count; ++part)
        kernel.transform_weight_gradient(shape, sums + part * sums_size + panel * weight_size, panel, to);
    });
    return gradient;
  }
  const auto parts = winograd_inputs(shape);
  float* points = shared_memory(shape.input_size(parts.largest()));
  const int64_t output_size = shape.output_size(parts.largest());
  for (int64_t part = 0; part < parts.count; ++part) {
    transform_inputs(kernel, shape, from, parts[part], points);
    for_each_item(shape.panels(), [&](int64_t panel) {
      float* strip = own_memory(strip_size + weight_size + output_size);
      float* sum = strip + strip_size;
      std::fill_n(sum, weight_size, 0.0F);
      kernel.add_weight_gradient(shape, points, grads, parts[part], panel, sum, sum + weight_size, strip);
      kernel.transform_weight_gradient(shape, sum, panel, to);
    });
  }
  return gradient;
}

}  // namespace cpu
}  // namespace internal
}  // namespace diffusers

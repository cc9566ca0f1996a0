#include "ops/cpu/multiply.h"

#include <algorithm>

#include <ATen/Parallel.h>

#include "core/parallel.h"
#include "ops/cpu/thread_memory.h"

namespace diffusers {
inline namespace internal {
namespace cpu {
namespace {

/// Multiplications for which a thread is worth waking.
constexpr int64_t kWorthAProductThread = int64_t{1} << 20;

/// Cuts a product into `row_parts` times `column_parts` parts.
struct ProductGrid {
  int64_t row_parts = 1;
  int64_t column_parts = 1;

  /// The grid of about `parts` parts. The longer side is cut first, because the parts of one side pack the
  /// same elements of the other.
  ProductGrid(const MatrixKernel& kernel, const MatrixProduct& product, int64_t parts) {
    const int64_t panels = (product.columns + kernel.panel - 1) / kernel.panel;
    if (product.rows >= product.columns) {
      row_parts = std::min(parts, product.rows);
    } else {
      column_parts = std::min(parts, panels);
      row_parts = std::min((parts + column_parts - 1) / column_parts, product.rows);
    }
  }

  int64_t count() const { return row_parts * column_parts; }

  ProductPart part(const MatrixKernel& kernel, const MatrixProduct& product, int64_t index) const {
    const int64_t row = index / column_parts;
    const int64_t column = index % column_parts;
    const int64_t panels = (product.columns + kernel.panel - 1) / kernel.panel;
    return {.first_row = product.rows * row / row_parts,
            .end_row = product.rows * (row + 1) / row_parts,
            .first_column = panels * column / column_parts * kernel.panel,
            .end_column = std::min(product.columns, panels * (column + 1) / column_parts * kernel.panel)};
  }
};

}  // namespace

void multiply(const MatrixKernel& kernel, const MatrixProduct& first, int64_t count,
              const ProductSteps& steps) {
  const int64_t work = std::max<int64_t>(1, first.rows * first.columns * first.depth * first.pairs);
  const int64_t threads = std::clamp<int64_t>(count * work / kWorthAProductThread, 1, at::get_num_threads());
  const ProductGrid grid(kernel, first, (threads + count - 1) / count);
  const int64_t items = count * grid.count();
  parallel_for(0, items, std::max<int64_t>(1, items / threads), [&](int64_t begin, int64_t end) {
    float* memory = own_memory(kernel.memory);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t index = item / grid.count();
      MatrixProduct product = first;
      product.left.data += index * steps.left;
      product.right.data += index * steps.right;
      product.to += index * steps.to;
      kernel.multiply(product, grid.part(kernel, product, item % grid.count()), memory);
    }
  });
}

}  // namespace cpu
}  // namespace internal
}  // namespace diffusers

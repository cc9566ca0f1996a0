#include "ops/cpu/transpose.h"

#include <algorithm>

#include <ATen/ATen.h>

#include "core/parallel.h"
#include "ops/cpu/kernels.h"

namespace diffusers {
inline namespace internal {
namespace cpu {

void for_each_transpose_item(int64_t matrices, int64_t rows, int64_t columns,
                             const std::function<void(int64_t, int64_t)>& run) {
  constexpr int64_t kWorthAThread = 16384;  // elements
  const int64_t blocks = (columns + kTransposeColumns - 1) / kTransposeColumns;
  parallel_for(0, matrices * blocks, std::max<int64_t>(1, kWorthAThread / (rows * kTransposeColumns)), run);
}

void transpose_into(const at::Tensor& from, const at::Tensor& addend, const at::Tensor& to) {
  const int64_t rows = from.size(1);
  const int64_t columns = from.size(2);
  const auto* source = from.const_data_ptr<float>();
  const auto* other = addend.defined() ? addend.const_data_ptr<float>() : nullptr;
  auto* target = to.mutable_data_ptr<float>();
  for_each_transpose_item(from.size(0), rows, columns, [&](int64_t begin, int64_t end) {
    transpose(rows, columns, source, other, target, begin, end);
  });
}

}  // namespace cpu
}  // namespace internal
}  // namespace diffusers

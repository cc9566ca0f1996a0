#include "ops/cpu/matrix_product.h"

#include <vector>

#include <diffusers/core/random.h>

#include "ops/cpu/multiply.h"
#include "ops/support.h"

namespace diffusers {
namespace {

using testing::expect_close;
using testing::normal;
using testing::Threads;

struct ProductSizes {
  int64_t rows, columns, depth, pairs;
};

// Sizes that fill no block, panel or piece; more than one piece of each; sums of several pairs.
const std::vector<ProductSizes> kProductSizes{{1, 1, 1, 1},     {2, 17, 3, 1},    {13, 37, 300, 1},
                                              {64, 49, 33, 3},  {121, 31, 8, 2},  {130, 33, 257, 1},
                                              {7, 1030, 40, 1}, {250, 64, 520, 2}};

/// A tensor `[pairs, rows, columns]`, or the transposed view of one.
at::Tensor random_matrices(int64_t pairs, int64_t rows, int64_t columns, bool transposed) {
  return transposed ? normal({pairs, columns, rows}).transpose(1, 2) : normal({pairs, rows, columns});
}

cpu::MatrixView view_of(const at::Tensor& matrices, bool transposed) {
  return {matrices.const_data_ptr<float>(), matrices.stride(transposed ? 2 : 1), transposed};
}

/// Calls run(kernel) for the instruction sets of this machine.
template <class Run>
void for_each_matrix_kernel(const Run& run) {
  if (cpu::matrix_kernel() == nullptr) GTEST_SKIP() << "this machine has no AVX2";
  for (const int64_t lanes : {8, 16}) {
    const auto* kernel = cpu::matrix_kernel(lanes);
    if (kernel->lanes != lanes) continue;
    SCOPED_TRACE(::testing::Message() << lanes << " lanes");
    run(*kernel);
  }
}

TEST(MatrixProduct, MatchesFloat64) {
  manual_seed(3);
  for_each_matrix_kernel([](const cpu::MatrixKernel& kernel) {
    for (const auto& sizes : kProductSizes) {
      for (const int kind : {0, 1, 2, 3}) {
        SCOPED_TRACE(::testing::Message() << sizes.rows << " x " << sizes.depth << " x " << sizes.columns
                                          << ", transposed: " << kind);
        const bool left_transposed = kind % 2 == 1;
        const bool right_transposed = kind / 2 == 1;
        const at::Tensor left = random_matrices(sizes.pairs, sizes.rows, sizes.depth, left_transposed);
        const at::Tensor right = random_matrices(sizes.pairs, sizes.depth, sizes.columns, right_transposed);
        const at::Tensor row_bias = normal({sizes.rows, 1});
        const at::Tensor column_bias = normal({sizes.columns});
        // The rows of the result are further apart than its columns need.
        const at::Tensor result = at::full({sizes.rows, sizes.columns + 3}, 7.0);
        const at::Tensor sums = at::empty({sizes.rows});
        cpu::multiply(kernel, {.rows = sizes.rows,
                               .columns = sizes.columns,
                               .depth = sizes.depth,
                               .left = view_of(left, left_transposed),
                               .right = view_of(right, right_transposed),
                               .pairs = sizes.pairs,
                               .left_step = left.stride(0),
                               .right_step = right.stride(0),
                               .row_bias = row_bias.const_data_ptr<float>(),
                               .column_bias = column_bias.const_data_ptr<float>(),
                               .row_sums = sums.mutable_data_ptr<float>(),
                               .to = result.mutable_data_ptr<float>(),
                               .to_stride = sizes.columns + 3});
        const at::Tensor product = at::matmul(left.to(at::kDouble), right.to(at::kDouble)).sum(0);
        expect_close(result.narrow(1, 0, sizes.columns), product + row_bias + column_bias, 2e-6, "product");
        EXPECT_TRUE(result.narrow(1, sizes.columns, 3).eq(7).all().item<bool>());
        expect_close(sums, left.to(at::kDouble).sum(at::IntArrayRef{0, 2}), 2e-6, "sums of rows");
      }
    }
  });
}

TEST(MatrixProduct, ThreadsChangeNoBits) {
  manual_seed(4);
  for_each_matrix_kernel([](const cpu::MatrixKernel& kernel) {
    for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{900, 40}, {40, 900}, {70, 70}}) {
      const int64_t depth = 2000;
      const at::Tensor left = normal({depth, rows});
      const at::Tensor right = normal({depth, columns});
      const auto product = [&] {
        at::Tensor result = at::empty({rows, columns});
        const at::Tensor sums = at::empty({rows});
        cpu::multiply(kernel, {.rows = rows,
                               .columns = columns,
                               .depth = depth,
                               .left = {left.const_data_ptr<float>(), rows, true},
                               .right = {right.const_data_ptr<float>(), columns},
                               .row_sums = sums.mutable_data_ptr<float>(),
                               .to = result.mutable_data_ptr<float>(),
                               .to_stride = columns});
        return at::cat({result.flatten(), sums});
      };
      at::Tensor expected;
      {
        const Threads one(1);
        expected = product();
      }
      for (const int threads : {2, 3}) {
        const Threads guard(threads);
        EXPECT_TRUE(at::equal(product(), expected));
      }
    }
  });
}

TEST(MatrixProduct, EmptyProducts) {
  for_each_matrix_kernel([](const cpu::MatrixKernel& kernel) {
    at::Tensor result = at::ones({4});
    cpu::multiply(kernel, {.to = result.mutable_data_ptr<float>()});
    EXPECT_TRUE(at::equal(result, at::ones({4})));
  });
}

}  // namespace
}  // namespace diffusers

#include "core/host_copy.h"

#include <diffusers/core/tensor.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace diffusers {
namespace {

TEST(HostCopy, SharesNoMemoryWithWhatItCopies) {
  const Tensor contiguous = at::rand({3, 4});
  const Tensor transposed = at::rand({4, 3}, at::kDouble).t();
  const Tensor trained = at::rand({2}).requires_grad_();
  const TensorMap copies =
      host_copy({{"contiguous", contiguous}, {"transposed", transposed}, {"trained", trained}});
  const Tensor before = contiguous.clone();
  contiguous.zero_();
  EXPECT_TRUE(copies.at("contiguous").equal(before));
  EXPECT_TRUE(copies.at("transposed").equal(transposed));
  EXPECT_EQ(copies.at("transposed").scalar_type(), at::kDouble);
  EXPECT_FALSE(copies.at("trained").requires_grad());
  EXPECT_NE(copies.at("trained").data_ptr(), trained.data_ptr());
}

}  // namespace
}  // namespace diffusers

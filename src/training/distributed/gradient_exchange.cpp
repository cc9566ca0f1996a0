#include "training/distributed/gradient_exchange.h"

#include <ATen/ATen.h>

namespace diffusers {
inline namespace internal {

Tensor GradientExchange::zero_loss() const {
  Tensor loss;
  for (const Tensor& parameter : parameters_) {
    const Tensor zero = (parameter * 0).sum();
    loss = loss.defined() ? loss + zero : zero;
  }
  return loss;
}

}  // namespace internal
}  // namespace diffusers

#pragma once

#include <cstdint>

#include <diffusers/data/batch.h>

namespace diffusers {
inline namespace internal {

/// Origin of a sample, for error messages: `get(5)`.
struct SampleName {
  const char* function;
  int64_t index;
};

/// Gives each field of one sample a first dimension of 1, unless it has it already.
/// @throws TensorError naming the sample and the field if it does not hold a single sample
Batch as_batch_of_one(Batch sample, const SampleName& name);

}  // namespace internal
}  // namespace diffusers

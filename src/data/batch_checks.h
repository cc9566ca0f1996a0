#pragma once

#include <cstdint>

#include <diffusers/data/dataset.h>

namespace diffusers {

/// @param count the samples that were asked for
/// @throws TensorError naming the field and both counts, if the batch holds another number of images or
/// labels
void require_sample_count(const Batch& batch, int64_t count);

}  // namespace diffusers

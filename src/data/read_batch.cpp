#include "data/read_batch.h"

#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "core/require.h"
#include "data/batch_fields.h"
#include "data/transforms.h"

namespace diffusers {
inline namespace internal {
namespace {

void require_rows(const Tensor& field, const char* name, int64_t count) {
  if (!field.defined()) return;
  if (field.dim() == 0 || field.size(0) != count)
    fail<TensorError>("the dataset was asked for {} samples and gave {} {}; expected one row for each sample",
                      count, name, describe(field));
}

void require_rows(const std::vector<std::string>& field, const char* name, int64_t count) {
  require<TensorError>(field.empty() || static_cast<int64_t>(field.size()) == count,
                       "the dataset was asked for {} samples and gave {} {}; expected one for each sample",
                       count, field.size(), name);
}

/// Returns the number of rows of a batch: one for each sample, or two with DreamBooth's class images.
int64_t rows_of_samples(const Batch& batch, int64_t count) {
  return field_rows(batch.is_prior) == 2 * count ? 2 * count : count;
}

}  // namespace

void require_sample_count(const Batch& batch, int64_t count) {
  for_each_field(
      [&](const BatchField& about, auto member) { require_rows(batch.*member, about.name, count); });
}

Batch read_batch(const Dataset& dataset, std::span<const int64_t> indices, uint64_t augmentation_seed) {
  Batch batch = dataset.get_batch(indices, augmentation_seed);
  const auto count = static_cast<int64_t>(indices.size());
  const int64_t rows = rows_of_samples(batch, count);
  require_sample_count(batch, rows);
  batch.indices = checked_indices(indices, dataset.size());
  // The class images follow the instances.
  if (rows > count) batch.indices = at::cat({batch.indices, batch.indices + dataset.size()});
  return batch;
}

}  // namespace internal
}  // namespace diffusers

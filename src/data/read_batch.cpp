#include "data/read_batch.h"

#include <string>
#include <vector>

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

}  // namespace

void require_sample_count(const Batch& batch, int64_t count) {
  for_each_field(
      [&](const BatchField& about, auto member) { require_rows(batch.*member, about.name, count); });
}

Batch read_batch(const Dataset& dataset, std::span<const int64_t> indices, uint64_t augmentation_seed) {
  Batch batch = dataset.get_batch(indices, augmentation_seed);
  require_sample_count(batch, static_cast<int64_t>(indices.size()));
  batch.indices = checked_indices(indices, dataset.size());
  return batch;
}

}  // namespace internal
}  // namespace diffusers

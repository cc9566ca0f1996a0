#include "data/batch_checks.h"

#include "core/require.h"

namespace diffusers {
namespace {

void require_rows(const Tensor& tensor, const char* name, int64_t count) {
  if (!tensor.defined()) return;
  require<TensorError>(
      tensor.dim() > 0 && tensor.size(0) == count,
      "the dataset was asked for {} samples and gave {} {}; expected one row for each sample", count, name,
      describe(tensor));
}

}  // namespace

void require_sample_count(const Batch& batch, int64_t count) {
  require_rows(batch.images, "images", count);
  require_rows(batch.class_labels, "class_labels", count);
}

}  // namespace diffusers

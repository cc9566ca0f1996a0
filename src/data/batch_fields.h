#pragma once

// The list of the fields of a Batch. All code that handles every field uses it. tests/data/batch_test.cpp
// fails if a field is missing here.

#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include <diffusers/data/batch.h>

namespace diffusers {
inline namespace internal {

/// The reader of a field of a batch, and its dtype.
enum class FieldUse {
  kImage,   ///< read by a model, in the dtype of the training
  kDevice,  ///< read by a model or a loss, in its own dtype
  kHost     ///< read by the host only
};

/// Description of a field of a batch.
struct BatchField {
  const char* name;
  FieldUse use;
  int64_t sample_dim;  ///< number of dimensions of one sample
};

/// Calls `visit(const BatchField&, member)` for each field. `member` is a `Tensor Batch::*` or a
/// `std::vector<std::string> Batch::*`.
template <class Visit>
void for_each_field(Visit&& visit) {
  visit(BatchField{"images", FieldUse::kImage, 3}, &Batch::images);
  visit(BatchField{"class_labels", FieldUse::kDevice, 0}, &Batch::class_labels);
  visit(BatchField{"captions", FieldUse::kHost, 0}, &Batch::captions);
  visit(BatchField{"conditioning_images", FieldUse::kImage, 3}, &Batch::conditioning_images);
  visit(BatchField{"original_images", FieldUse::kImage, 3}, &Batch::original_images);
  visit(BatchField{"masks", FieldUse::kImage, 3}, &Batch::masks);
  visit(BatchField{"original_sizes", FieldUse::kHost, 1}, &Batch::original_sizes);
  visit(BatchField{"crop_top_lefts", FieldUse::kHost, 1}, &Batch::crop_top_lefts);
  visit(BatchField{"indices", FieldUse::kHost, 0}, &Batch::indices);
  visit(BatchField{"is_prior", FieldUse::kDevice, 0}, &Batch::is_prior);
}

/// Calls `visit(const BatchField&, Tensor&)` for each tensor of a batch that is defined; the tensor is const
/// if the batch is.
template <class AnyBatch, class Visit>
void for_each_tensor(AnyBatch& batch, Visit&& visit) {
  for_each_field([&](const BatchField& about, auto member) {
    if constexpr (std::is_same_v<decltype(member), Tensor Batch::*>)
      if ((batch.*member).defined()) visit(about, batch.*member);
  });
}

/// Returns the rows of a field: 0 if it is not set or a 0-dim tensor.
inline int64_t field_rows(const Tensor& field) {
  return field.defined() && field.dim() > 0 ? field.size(0) : 0;
}
inline int64_t field_rows(const std::vector<std::string>& field) {
  return static_cast<int64_t>(field.size());
}

/// Returns true if a field is set.
inline bool is_set(const Tensor& field) { return field.defined(); }
inline bool is_set(const std::vector<std::string>& field) { return !field.empty(); }

}  // namespace internal
}  // namespace diffusers

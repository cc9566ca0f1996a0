#include <algorithm>
#include <string>
#include <vector>

#include <diffusers/data/batch.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "data/batch_fields.h"

namespace diffusers {
namespace {

using Texts = std::vector<std::string>;

std::string describe_field(const Tensor& field) { return describe(field); }
std::string describe_field(const Texts& field) { return fmt::format("{} texts", field.size()); }

/// True if two tensors can be joined along their first dimension without a conversion.
bool can_be_joined(const Tensor& a, const Tensor& b) {
  return a.dim() > 0 && a.dim() == b.dim() && a.sizes().slice(1) == b.sizes().slice(1) &&
         a.scalar_type() == b.scalar_type() && a.device() == b.device();
}
bool can_be_joined(const Texts&, const Texts&) { return true; }

Tensor joined(const std::vector<const Tensor*>& parts) {
  std::vector<Tensor> tensors;
  tensors.reserve(parts.size());
  for (const Tensor* part : parts) tensors.push_back(*part);
  return at::cat(tensors);
}

Texts joined(const std::vector<const Texts*>& parts) {
  Texts texts;
  for (const Texts* part : parts) texts.insert(texts.end(), part->begin(), part->end());
  return texts;
}

/// Joins one field of all batches.
template <class Field>
Field collate_field(std::span<const Batch> batches, const char* name, Field Batch::*member) {
  const Field& first = batches.front().*member;
  std::vector<const Field*> parts;
  int64_t sample = 0;
  for (const Batch& batch : batches) {
    const Field& part = batch.*member;
    if (is_set(part) != is_set(first))
      fail<TensorError>(
          "collate: {} of sample {} are {}, but those of sample 0 are {}; expected the field in "
          "every sample or in none",
          name, sample, describe_field(part), describe_field(first));
    if (is_set(first) && !can_be_joined(part, first))
      fail<TensorError>(
          "collate: {} of sample {} are {}, but those of sample 0 are {}; expected one shape "
          "(apart from the number of samples), dtype and device",
          name, sample, describe_field(part), describe_field(first));
    if (is_set(first) && field_rows(part) != batch.size())
      fail<TensorError>("collate: {} of sample {} are {}, expected {} rows", name, sample,
                        describe_field(part), batch.size());
    parts.push_back(&part);
    sample += batch.size();
  }
  return is_set(first) ? joined(parts) : Field();
}

}  // namespace

int64_t Batch::size() const {
  int64_t rows = 0;
  bool is_found = false;
  for_each_field([&](const BatchField&, auto member) {
    if (is_found || !is_set(this->*member)) return;
    is_found = true;
    rows = field_rows(this->*member);
  });
  return rows;
}

Batch Batch::to(at::Device device, std::optional<at::ScalarType> dtype) const {
  Batch moved = *this;
  for_each_tensor(moved, [&](const BatchField& about, Tensor& field) {
    if (about.use == FieldUse::kHost) return;
    const bool is_cast = dtype && about.use == FieldUse::kImage && at::isFloatingType(field.scalar_type());
    field = field.to(device, is_cast ? *dtype : field.scalar_type(), /*non_blocking=*/true);
  });
  return moved;
}

Batch Batch::pin_memory() const {
  require(at::hasCUDA(), "pin_memory: there is no CUDA device, expected one");
  Batch pinned = *this;
  for_each_tensor(pinned, [](const BatchField& about, Tensor& field) {
    if (about.use != FieldUse::kHost && field.is_cpu()) field = field.pin_memory();
  });
  return pinned;
}

Batch Batch::slice(int64_t begin, int64_t end) const {
  require<TensorError>(0 <= begin && begin <= end && end <= size(),
                       "slice: samples [{}, {}) of a batch of {}, expected 0 <= begin <= end <= {}", begin,
                       end, size(), size());
  Batch part;
  for_each_field([&](const BatchField& about, auto member) {
    const auto& field = this->*member;
    if (!is_set(field)) return;
    require<TensorError>(field_rows(field) == size(), "slice: {} are {}, expected {} rows", about.name,
                         describe_field(field), size());
    if constexpr (std::is_same_v<decltype(member), Tensor Batch::*>) {
      part.*member = field.narrow(0, begin, end - begin);
    } else {
      (part.*member).assign(field.begin() + begin, field.begin() + end);
    }
  });
  return part;
}

Batch collate(std::span<const Batch> batches) {
  require<TensorError>(!batches.empty(), "collate: there is no batch, expected one or more");
  Batch all;
  for_each_field([&](const BatchField& about, auto member) {
    all.*member = collate_field(batches, about.name, member);
  });
  return all;
}

}  // namespace diffusers

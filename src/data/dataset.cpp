#include <algorithm>
#include <vector>

#include <diffusers/data/dataset.h>
#include <diffusers/data/iterable_dataset.h>
#include <diffusers/data/tensor_dataset.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "data/batch_fields.h"
#include "data/single_sample.h"
#include "data/transforms.h"

namespace diffusers {

Batch internal::as_batch_of_one(Batch sample, const SampleName& name) {
  for_each_tensor(sample, [&](const BatchField& about, Tensor& field) {
    if (field.dim() == about.sample_dim) field = field.unsqueeze(0);
    if (field.dim() != about.sample_dim + 1 || field.size(0) != 1)
      fail<TensorError>("{}({}): {} are {}, expected one sample: {} dimensions, or {} with a first one of 1",
                        name.function, name.index, about.name, describe(field), about.sample_dim,
                        about.sample_dim + 1);
  });
  require<TensorError>(sample.captions.size() <= 1, "{}({}): one sample has {} captions, expected at most 1",
                       name.function, name.index, sample.captions.size());
  require<TensorError>(sample.size() == 1, "{}({}): no field of the sample is set", name.function,
                       name.index);
  return sample;
}

Batch MapDataset::get_batch(std::span<const int64_t> indices, uint64_t augmentation_seed) const {
  const Tensor positions = checked_indices(indices, size());
  std::vector<Batch> samples;
  samples.reserve(indices.size());
  for (const int64_t index : indices)
    samples.push_back(
        as_batch_of_one(get_augmented(index, augmentation_seed), {.function = "get", .index = index}));
  Batch batch = collate(samples);
  batch.indices = positions;
  return batch;
}

int64_t SampleStream::skip(int64_t count) {
  int64_t passed = 0;
  while (passed < count && next()) ++passed;
  return passed;
}

TensorDataset::TensorDataset(Tensor images, Tensor class_labels)
    : TensorDataset(Batch{.images = std::move(images), .class_labels = std::move(class_labels)}) {}

TensorDataset::TensorDataset(Batch samples) : samples_(std::move(samples)) {
  const Tensor& images = samples_.images;
  require<TensorError>(images.defined() && images.dim() > 0 && images.size(0) > 0,
                       "TensorDataset: images are {}, expected [N, ...] with N of 1 or more",
                       describe(images));
  require<TensorError>(
      images.is_floating_point(),
      "TensorDataset: images are {}, expected floating numbers in [-1, 1]; convert bytes with "
      "images.to(torch::kFloat) / 127.5 - 1",
      describe(images));
  for_each_field([&](const BatchField& about, auto member) {
    const auto& field = samples_.*member;
    const int64_t rows = field_rows(field);
    require<TensorError>(rows == size() || !is_set(field), "TensorDataset: there are {} {}, but {} images",
                         rows, about.name, size());
  });
  Tensor& labels = samples_.class_labels;
  if (!labels.defined()) return;
  require<TensorError>(labels.dim() == 1 && at::isIntegralType(labels.scalar_type(), /*includeBool=*/false),
                       "TensorDataset: class_labels are {}, expected whole numbers [{}]", describe(labels),
                       size());
  labels = labels.to(at::kLong);
  const auto least = labels.min().item<int64_t>();
  require<TensorError>(least >= 0, "TensorDataset: a class label is {}, expected 0 or more", least);
  class_count_ = labels.max().item<int64_t>() + 1;
}

Batch TensorDataset::get_batch(std::span<const int64_t> indices, uint64_t /*augmentation_seed*/) const {
  const Tensor positions = checked_indices(indices, size());
  Batch batch;
  for_each_field([&](const BatchField&, auto member) {
    const auto& all = samples_.*member;
    if constexpr (std::is_same_v<decltype(member), Tensor Batch::*>) {
      if (all.defined()) batch.*member = all.index_select(0, positions.to(all.device()));
    } else if (!all.empty()) {
      for (const int64_t index : indices) (batch.*member).push_back(all[static_cast<std::size_t>(index)]);
    }
  });
  if (!batch.indices.defined()) batch.indices = positions;
  return batch;
}

}  // namespace diffusers

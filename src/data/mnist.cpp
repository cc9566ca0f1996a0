#include <algorithm>
#include <vector>

#include <diffusers/data/idx.h>
#include <diffusers/data/mnist.h>
#include <diffusers/io/files.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "data/transforms.h"

namespace diffusers {
namespace {

constexpr int64_t kLargestResolution = 4096;

/// Returns the path of the file of that name, or of its compressed form.
std::string find_mnist_file(const std::string& folder, const std::string& name) {
  require<FileError>(folder_exists(folder),
                     "{}: there is no such folder; expected the four MNIST files there", folder);
  for (const std::string_view extension : {"", ".gz"}) {
    std::string path = join_path(folder, name + std::string(extension));
    if (file_exists(path)) return path;
  }
  fail<FileError>("{}: there is neither {} nor {}.gz", folder, name, name);
}

std::string idx_summary(const Tensor& tensor) {
  return fmt::format("{} {}", dtype_name(tensor.scalar_type()), shape_string(tensor.sizes()));
}

}  // namespace

MnistDataset::MnistDataset(const std::filesystem::path& folder, const MnistDatasetOptions& options)
    : random_flip_(options.random_flip) {
  require<ConfigError>(options.resolution >= 0 && options.resolution <= kLargestResolution,
                       "resolution is {}, expected 0 (the files' own) to {}", options.resolution,
                       kLargestResolution);
  require<ConfigError>(options.max_samples >= 0, "max_samples is {}, expected 0 (all) or more",
                       options.max_samples);
  const std::string prefix = options.split == Split::kTrain ? "train" : "t10k";
  const std::string images_path = find_mnist_file(folder.string(), prefix + "-images-idx3-ubyte");
  const std::string labels_path = find_mnist_file(folder.string(), prefix + "-labels-idx1-ubyte");
  Tensor images = read_idx(images_path);
  Tensor labels = read_idx(labels_path);
  require<FileError>(images.dim() == 3 && images.scalar_type() == at::kByte,
                     "{}: expected images uint8 [N, rows, columns], found {}", images_path,
                     idx_summary(images));
  require<FileError>(labels.dim() == 1 && labels.scalar_type() == at::kByte,
                     "{}: expected labels uint8 [N], found {}", labels_path, idx_summary(labels));
  require<FileError>(images.numel() > 0, "{}: no images, found {}", images_path, idx_summary(images));
  require<FileError>(images.size(1) == images.size(2) && images.size(1) <= kLargestResolution,
                     "{}: expected square images of at most {} pixels, found {}", images_path,
                     kLargestResolution, idx_summary(images));
  require<FileError>(images.size(0) == labels.size(0), "{} holds {} images, but {} holds {} labels",
                     images_path, images.size(0), labels_path, labels.size(0));
  num_classes_ = std::max<int64_t>(10, labels.max().item<int64_t>() + 1);

  if (options.max_samples > 0) {
    const int64_t count = std::min(options.max_samples, images.size(0));
    images = images.narrow(0, 0, count).clone();
    labels = labels.narrow(0, 0, count);
  }
  images = images.unsqueeze(1);
  const int64_t native = images.size(2);
  const int64_t resolution = options.resolution == 0 ? native : options.resolution;
  if (options.pad_to_resolution && resolution != native) {
    require<ConfigError>(resolution > native, "resolution is {}: padding cannot shrink images of {} pixels",
                         resolution, native);
    const int64_t before = (resolution - native) / 2;
    const int64_t after = resolution - native - before;
    images = at::constant_pad_nd(images, {before, after, before, after}, 0);
  }
  images_ = resize_pixels(images, resolution, resolution).contiguous();
  labels_ = labels.to(at::kLong);
}

Batch MnistDataset::get_batch(std::span<const int64_t> indices, uint64_t augmentation_seed) const {
  const Tensor positions = checked_indices(indices, size());
  Batch batch{.images = to_signed_unit(images_.index_select(0, positions)),
              .class_labels = labels_.index_select(0, positions),
              .indices = positions};
  if (!random_flip_) return batch;
  std::vector<int64_t> mirrored;
  for (std::size_t i = 0; i < indices.size(); ++i)
    if (ExampleRandom(augmentation_seed, indices[i]).coin()) mirrored.push_back(static_cast<int64_t>(i));
  if (mirrored.empty()) return batch;
  const Tensor rows = checked_indices(mirrored, batch.images.size(0));
  batch.images.index_copy_(0, rows, batch.images.index_select(0, rows).flip({3}));
  return batch;
}

}  // namespace diffusers

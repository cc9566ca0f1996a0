#include <algorithm>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/logging.h>
#include <diffusers/io/files.h>
#include <diffusers/training/latent_cache.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "io/folder_lock.h"
#include "io/staged_folder.h"
#include "training/tasks/latent_file.h"

namespace diffusers {
namespace {

constexpr const char* kLatentFormat = "1";

/// A hash of the pixels of an image: equal images have equal hashes; others differ by all odds.
uint64_t hash_of_image(const Tensor& image) {
  const Tensor pixels = image.to(at::kCPU, at::kFloat).contiguous();
  const auto* bytes = static_cast<const char*>(pixels.const_data_ptr());
  uint64_t hash = 0x9e3779b97f4a7c15ULL ^ pixels.nbytes();
  for (std::size_t i = 0; i < pixels.nbytes(); i += sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, bytes + i, std::min(sizeof(word), pixels.nbytes() - i));
    hash = (hash ^ word) * 0xff51afd7ed558ccdULL;
    hash ^= hash >> 32;
  }
  return hash;
}

/// Calls `use(rows, batch)` with the samples of `indices`, some of one bucket at a time; `rows` are their
/// places in `indices`.
/// @param use returns false to end
template <class F>
void for_each_batch(const Dataset& dataset, const std::vector<int64_t>& indices, int64_t batch_size, F use) {
  const std::vector<int64_t> buckets = dataset.buckets();
  std::map<int64_t, std::vector<int64_t>> rows_of;
  for (std::size_t row = 0; row < indices.size(); ++row)
    rows_of[buckets.empty() ? 0 : buckets[static_cast<std::size_t>(indices[row])]].push_back(
        static_cast<int64_t>(row));
  for (const auto& entry : rows_of) {
    const std::span<const int64_t> rows(entry.second);
    for (std::size_t first = 0; first < rows.size(); first += static_cast<std::size_t>(batch_size)) {
      const auto some =
          rows.subspan(first, std::min(static_cast<std::size_t>(batch_size), rows.size() - first));
      std::vector<int64_t> wanted;
      for (const int64_t row : some) wanted.push_back(indices[static_cast<std::size_t>(row)]);
      if (!use(some, dataset.get_batch(wanted))) return;
    }
  }
}

/// The image as it is, or mirrored.
Tensor variant_of(const Tensor& images, int64_t variant) {
  return variant == 0 ? images : images.flip({images.dim() - 1});
}

void require_host_images(const Batch& batch) {
  require<TensorError>(batch.images.defined() && batch.images.is_cpu() && batch.images.dim() == 4,
                       "the images of the dataset are {}, expected [B, C, H, W] in host memory",
                       describe(batch.images));
}

}  // namespace

LatentCache::LatentCache(std::filesystem::path folder, const LatentEncoder& encoder,
                         const LatentCacheOptions& options, int64_t size)
    : folder_(std::move(folder)),
      options_(options),
      fingerprint_(encoder.fingerprint()),
      size_(size),
      has_posterior_(encoder.has_posterior()) {
  require<ConfigError>(options_.batch_size > 0, "batch_size of the latent cache is {}, expected at least 1",
                       options_.batch_size);
  require<ConfigError>(options_.samples_per_file > 0,
                       "samples_per_file of the latent cache is {}, expected at least 1",
                       options_.samples_per_file);
  require<ConfigError>(size_ > 0, "the dataset is empty; there are no latents to cache");
}

std::shared_ptr<const LatentCache> LatentCache::build(const std::filesystem::path& folder,
                                                      const Dataset& dataset, const LatentEncoder& encoder,
                                                      const LatentCacheOptions& options) {
  std::shared_ptr<LatentCache> cache(new LatentCache(folder, encoder, options, dataset.size()));
  create_folders(folder);
  const FolderLock lock(folder.string(), "the latent cache", "latent encoding");
  remove_temporary_files(folder.string());
  const int64_t files = (cache->size_ + options.samples_per_file - 1) / options.samples_per_file;
  for (int64_t number = 0; number < files; ++number) {
    if (!cache->is_current(number, dataset)) cache->encode_file(number, dataset, encoder);
    cache->files_.push_back(cache->open_file(number));
  }
  cache->remove_surplus_files(files);
  return cache;
}

std::filesystem::path LatentCache::file_path(int64_t number) const {
  return folder_ / fmt::format("latents-{:05}.{}", number, options_.format.name());
}

std::vector<int64_t> LatentCache::indices_of(int64_t number) const {
  std::vector<int64_t> indices;
  const int64_t end = std::min((number + 1) * options_.samples_per_file, size_);
  for (int64_t i = number * options_.samples_per_file; i < end; ++i) indices.push_back(i);
  return indices;
}

LatentCache::Contents LatentCache::open_file(int64_t number) const {
  auto file = open_latent_file(file_path(number).string(), options_.format);
  auto hashes = file->hashes(static_cast<int64_t>(indices_of(number).size()), options_.random_flip ? 2 : 1);
  return {std::move(file), std::move(hashes)};
}

bool LatentCache::is_current(int64_t number, const Dataset& dataset) const {
  const std::string path = file_path(number).string();
  if (!file_exists(path)) return false;
  const auto outdated = [&](const std::string& reason) {
    log_message(LogLevel::kInfo, fmt::format("{}: {}; its latents are made anew", path, reason));
    return false;
  };
  const std::vector<int64_t> indices = indices_of(number);
  const int64_t variants = options_.random_flip ? 2 : 1;
  std::shared_ptr<const LatentFile> file;
  try {
    file = open_latent_file(path, options_.format);
  } catch (const FileError& error) {
    log_message(LogLevel::kWarning, fmt::format("{}; its latents are made anew", error.what()));
    return false;
  }
  if (file->about("format") != kLatentFormat) return outdated("it is no file of this version's latent cache");
  if (file->about("fingerprint") != fingerprint_) return outdated("the autoencoder has changed");
  const std::vector<uint64_t> known = file->hashes(static_cast<int64_t>(indices.size()), variants);
  if (known.empty()) return outdated("the number of samples or of variants has changed");
  for (const int64_t index : indices)
    for (int64_t variant = 0; variant < variants; ++variant)
      if (!file->contains(index, variant)) return outdated("entries are missing");

  int64_t changed = -1;
  for_each_batch(dataset, indices, options_.batch_size,
                 [&](std::span<const int64_t> rows, const Batch& batch) {
                   require_host_images(batch);
                   for (std::size_t i = 0; i < rows.size(); ++i)
                     if (known[static_cast<std::size_t>(rows[i] * variants)] !=
                         hash_of_image(batch.images[static_cast<int64_t>(i)])) {
                       changed = indices[static_cast<std::size_t>(rows[i])];
                       return false;
                     }
                   return true;
                 });
  return changed < 0 || outdated(fmt::format("the image of sample {} has changed", changed));
}

void LatentCache::encode_file(int64_t number, const Dataset& dataset, const LatentEncoder& encoder) {
  const std::vector<int64_t> indices = indices_of(number);
  const int64_t variants = options_.random_flip ? 2 : 1;
  const at::Device device = encoder.device();
  LatentEntries entries{.indices = indices,
                        .variants = variants,
                        .moments = std::vector<Tensor>(indices.size() * static_cast<std::size_t>(variants)),
                        .hashes = std::vector<uint64_t>(indices.size() * static_cast<std::size_t>(variants)),
                        .format = kLatentFormat,
                        .fingerprint = fingerprint_};
  for_each_batch(
      dataset, indices, options_.batch_size, [&](std::span<const int64_t> rows, const Batch& batch) {
        require_host_images(batch);
        for (int64_t variant = 0; variant < variants; ++variant) {
          const Tensor images = variant_of(batch.images, variant).contiguous();
          const LatentDistribution found = encoder.encode_distribution(images.to(device));
          const Tensor moments = found.logvar.defined() ? at::cat({found.mean, found.logvar}, 1) : found.mean;
          const Tensor on_host = moments.to(at::kCPU, at::kFloat);
          for (std::size_t i = 0; i < rows.size(); ++i) {
            const auto entry = static_cast<std::size_t>(rows[i] * variants + variant);
            entries.hashes[entry] = hash_of_image(images[static_cast<int64_t>(i)]);
            entries.moments[entry] = on_host[static_cast<int64_t>(i)].clone();
          }
          encoded_images_ += images.size(0);
        }
        return true;
      });
  write_latent_file(file_path(number).string(), options_.format, entries);
}

/// Files of samples that the dataset no longer has.
void LatentCache::remove_surplus_files(int64_t files) const {
  for (int64_t number = files; file_exists(file_path(number)); ++number) remove_file(file_path(number));
}

Tensor LatentCache::read(int64_t index, uint64_t hash) const {
  require<TensorError>(index >= 0 && index < size_,
                       "index {} of a sample is outside the latent cache, which has {} samples", index,
                       size_);
  const Contents& contents = files_[static_cast<std::size_t>(index / options_.samples_per_file)];
  const int64_t variants = options_.random_flip ? 2 : 1;
  const int64_t row = index % options_.samples_per_file * variants;
  for (int64_t variant = 0; variant < variants; ++variant)
    if (contents.hashes[static_cast<std::size_t>(row + variant)] == hash)
      return contents.file->get(index, variant);
  fail<TensorError>(
      "the image of sample {} is not the one whose latents are in {}{}; the dataset has changed, or "
      "augments "
      "images in another way, such as random crops. Build the cache of the same dataset, {}",
      index, folder_.string(), options_.random_flip ? ", nor its mirror image" : "",
      options_.random_flip ? "with center_crop" : "with random_flip set as in the dataset");
}

LatentDistribution LatentCache::find(const Batch& batch) const {
  require_host_images(batch);
  const int64_t count = batch.images.size(0);
  require<TensorError>(
      batch.indices.defined() && batch.indices.is_cpu() && batch.indices.scalar_type() == at::kLong &&
          batch.indices.numel() == count,
      "indices of the batch are {}, expected int64 [{}] in host memory: the latent cache finds "
      "samples by their index in the dataset",
      describe(batch.indices), count);
  const Tensor indices = batch.indices.contiguous();
  std::vector<Tensor> moments;
  for (int64_t i = 0; i < count; ++i)
    moments.push_back(read(indices.const_data_ptr<int64_t>()[i], hash_of_image(batch.images[i])));
  const Tensor all = at::stack(moments);
  if (!has_posterior_) return {all};
  const std::vector<Tensor> halves = all.chunk(2, 1);
  return {halves[0], halves[1]};
}

}  // namespace diffusers

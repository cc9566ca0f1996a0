#include "training/tasks/latent_file.h"

#include <utility>

#include <diffusers/core/tensor_map.h>
#include <diffusers/io/safetensors.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "training/tasks/latent_shard.h"

namespace diffusers {
inline namespace internal {
namespace {

constexpr const char* kHashes = "hashes";

std::string entry_name(int64_t index, int64_t variant) { return fmt::format("{}.{}", index, variant); }

class SafetensorsLatents : public LatentFile {
 public:
  explicit SafetensorsLatents(const std::string& path) : file_(path) {}

  std::string about(const std::string& key) const override {
    const auto found = file_.metadata().find(key);
    return found == file_.metadata().end() ? "" : found->second;
  }
  std::vector<uint64_t> hashes(int64_t samples, int64_t variants) const override {
    if (!file_.contains(kHashes) || file_.info(kHashes).dtype != at::kLong ||
        file_.info(kHashes).shape != std::vector<int64_t>{samples, variants})
      return {};
    const Tensor tensor = file_.get(kHashes);
    const auto* values = tensor.const_data_ptr<int64_t>();
    std::vector<uint64_t> list;
    for (int64_t i = 0; i < tensor.numel(); ++i) list.push_back(static_cast<uint64_t>(values[i]));
    return list;
  }
  bool contains(int64_t index, int64_t variant) const override {
    return file_.contains(entry_name(index, variant));
  }
  Tensor get(int64_t index, int64_t variant) const override { return file_.get(entry_name(index, variant)); }

 private:
  SafetensorsFile file_;
};

void write_safetensors_latents(const std::string& path, const LatentEntries& entries) {
  const auto samples = static_cast<int64_t>(entries.indices.size());
  Tensor hashes = at::empty({samples, entries.variants}, at::kLong);
  TensorMap tensors;
  for (int64_t row = 0; row < samples * entries.variants; ++row) {
    const auto at_row = static_cast<std::size_t>(row);
    hashes.mutable_data_ptr<int64_t>()[row] = static_cast<int64_t>(entries.hashes[at_row]);
    tensors.insert(
        entry_name(entries.indices[static_cast<std::size_t>(row / entries.variants)], row % entries.variants),
        entries.moments[at_row]);
  }
  tensors.insert(kHashes, hashes);
  save_safetensors(tensors, path, {{"format", entries.format}, {"fingerprint", entries.fingerprint}});
}

}  // namespace

std::shared_ptr<const LatentFile> open_latent_file(const std::string& path, LatentCacheFormat format) {
  if (format == LatentCacheFormat::kTar) return open_latent_shard(path);
  return std::make_shared<SafetensorsLatents>(path);
}

void write_latent_file(const std::string& path, LatentCacheFormat format, const LatentEntries& entries) {
  if (format == LatentCacheFormat::kTar) return write_latent_shard(path, entries);
  write_safetensors_latents(path, entries);
}

}  // namespace internal
}  // namespace diffusers

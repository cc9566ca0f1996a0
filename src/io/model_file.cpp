#include <algorithm>
#include <cerrno>
#include <map>
#include <memory>
#include <utility>

#include <diffusers/io/files.h>
#include <diffusers/io/model_file.h>

#include <ATen/core/Tensor.h>
#include <unistd.h>

#include "core/foreign_content.h"
#include "core/json.h"
#include "core/require.h"
#include "io/open_model_file.h"
#include "io/posix_file.h"
#include "io/safetensors_writer.h"
#include "io/shard_index.h"
#include "io/system_calls.h"

namespace diffusers {
namespace {

constexpr std::string_view kExtension = ".safetensors";

/// Returns the file name without extension: "diffusion_pytorch_model", "diffusion_pytorch_model.fp16".
std::string stem_of(const std::string& basename, const std::string& variant) {
  return variant.empty() ? basename : fmt::format("{}.{}", basename, variant);
}

std::string index_name(const std::string& basename, const std::string& variant) {
  return fmt::format("{}{}.index.{}json", basename, kExtension, variant.empty() ? "" : variant + ".");
}

/// Returns the index name that old versions of diffusers wrote, before they adopted transformers' names.
std::string legacy_index_name(const std::string& basename, const std::string& variant) {
  return fmt::format("{}{}.{}.index.json", basename, kExtension, variant);
}

/// Returns true for `stem`, then "-00001-of-00002", then `extension`.
bool is_shard_name(std::string_view name, std::string_view stem, std::string_view extension) {
  if (!name.starts_with(stem) || !name.ends_with(extension)) return false;
  name.remove_prefix(stem.size());
  if (name.size() != extension.size() + 15) return false;
  constexpr std::string_view kPattern = "-#####-of-#####";
  for (std::size_t i = 0; i < kPattern.size(); ++i) {
    const bool is_digit = name[i] >= '0' && name[i] <= '9';
    if (kPattern[i] == '#' ? !is_digit : name[i] != kPattern[i]) return false;
  }
  return true;
}

constexpr std::string_view kKept = "-before-save";

/// Returns the name that a file of the previous save gets while a new file takes its name.
std::string kept_name(const std::string& name, const std::string& stem) {
  return name.substr(0, stem.size()) + std::string(kKept) + name.substr(stem.size());
}

/// Reverses `kept_name`. Returns any other name unchanged.
std::string name_before_keeping(std::string name, const std::string& stem) {
  while (name.starts_with(stem) && std::string_view(name).substr(stem.size()).starts_with(kKept))
    name.erase(stem.size(), kKept.size());
  return name;
}

/// Returns true for a shard of an earlier save, with any of the naming schemes.
bool is_old_shard(const std::string& given, const std::string& basename, const std::string& variant) {
  const std::string stem = stem_of(basename, variant);
  const std::string name = name_before_keeping(given, stem);
  if (name != given && name == stem + std::string(kExtension)) return true;
  if (is_shard_name(name, stem, kExtension) || is_shard_name(name, stem, ".bin")) return true;
  return !variant.empty() && is_shard_name(name, basename, fmt::format(".{}{}", variant, kExtension));
}

[[noreturn]] void fail_missing(const std::string& folder, const std::string& basename,
                               const std::string& variant) {
  require<FileError>(folder_exists(folder), "{}: there is no such folder", folder);
  const std::string expected = stem_of(basename, variant) + std::string(kExtension);
  std::string others;
  for (const auto& name : list_folder(folder)) {
    for (const std::string_view pickle : {".bin", ".pt", ".pth", ".ckpt"}) {
      if (!name.ends_with(pickle)) continue;
      fail<FileError>("{}: there is no {}, only {}; {}", folder, expected, name, kPickleAdvice);
    }
    if (name.ends_with(kExtension)) others += (others.empty() ? "" : ", ") + name;
  }
  fail<FileError>("{}: there is no {}{}", folder, expected,
                  others.empty() ? " and no other safetensors file" : "; there are: " + others);
}

/// Splits tensors into shards as huggingface_hub.split_state_dict_into_shards_factory does: greedily, in the
/// order of the tensors. A tensor larger than the limit gets its own shard.
std::vector<TensorMap> split(const TensorMap& tensors, uint64_t max_shard_size) {
  std::vector<TensorMap> shards;
  TensorMap current;
  uint64_t current_size = 0;
  for (const auto& [name, tensor] : tensors) {
    const uint64_t size = tensor.defined() ? tensor.nbytes() : 0;
    if (size > max_shard_size) {
      shards.emplace_back().insert(name, tensor);
      continue;
    }
    if (current_size + size > max_shard_size) {
      shards.push_back(std::exchange(current, {}));
      current_size = 0;
    }
    current.insert(name, tensor);
    current_size += size;
  }
  if (!current.empty() || shards.empty()) shards.push_back(std::move(current));
  return shards;
}

/// Returns the name of the index that is used for reading a folder; empty if there is none.
std::string index_in_use(const std::string& folder, const std::string& basename, const std::string& variant) {
  for (const std::string& name : {index_name(basename, variant), legacy_index_name(basename, variant)})
    if ((!variant.empty() || name == index_name(basename, variant)) && file_exists(join_path(folder, name)))
      return name;
  return {};
}

/// Makes a hard link to a file, or a copy if the file system has no hard links.
void add_name(const std::string& from, const std::string& to) {
  remove_file(to);
  const int error = error_of([&] { return ::link(from.c_str(), to.c_str()); });
  if (error == 0) return;
  const bool has_no_links = error == EPERM || error == EOPNOTSUPP || error == ENOSYS || error == EMLINK;
  require<FileError>(has_no_links, "cannot link {} to {}: {}", to, from, errno_text(error));
  const InputFile source(from);
  AtomicFile copy(to);
  std::string buffer(std::size_t{1} << 20, '\0');
  for (uint64_t offset = 0; offset < source.size();) {
    const auto count = static_cast<std::size_t>(std::min<uint64_t>(buffer.size(), source.size() - offset));
    source.read(buffer.data(), count, offset);
    copy.write(buffer.data(), count);
    offset += count;
  }
  copy.commit();
}

/// Renames the shards of an old save that have the names of new files, and updates the old index. The old
/// save stays complete until the new index is written.
void keep_old_shards(const std::string& folder, const std::string& index, const std::string& stem,
                     const std::vector<std::string>& new_files) {
  const std::string path = join_path(folder, index);
  Json json;
  std::map<std::string, std::string> kept;  // by the previous name
  try {
    const std::string text = read_model_file(folder, index, kMaxJsonBytes);
    const ShardIndex shards = parse_shard_index(text, path);
    for (const std::string& name : new_files) {
      if (!shards.contains(name)) continue;
      std::string other = kept_name(name, stem);
      while (shards.contains(other)) other = kept_name(other, stem);
      kept[name] = other;
      require<FileError>(file_exists(join_path(folder, name)), "{}: the shard {} is missing", path, name);
    }
    json = parse_json(text, path);
  } catch (const FileError&) {
    return;  // such a save is not readable anyway
  }
  if (kept.empty()) return;
  for (auto& entry : json["weight_map"].items()) {
    const auto found = kept.find(entry.value().get<std::string>());
    if (found != kept.end()) entry.value() = found->second;
  }
  try {
    AtomicFile new_index(path);
    new_index.write(dump_json(json));
    new_index.finish();
    for (const auto& [name, other] : kept) add_name(join_path(folder, name), join_path(folder, other));
    sync_folder(folder);
    new_index.publish();
  } catch (const FileError&) {
    for (const auto& entry : kept) remove_file(join_path(folder, entry.second));
    throw;
  }
  sync_folder(folder);
}

/// Returns the text of the index, which names the shard of each tensor.
std::string index_of(const std::vector<TensorMap>& parts, const std::vector<std::string>& files) {
  Json weight_map = Json::object();
  uint64_t total_size = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    for (const auto& [name, tensor] : parts[i]) {
      weight_map[name] = files[i];
      total_size += tensor.nbytes();
    }
  }
  return dump_json({{"metadata", {{"total_size", total_size}}}, {"weight_map", weight_map}});
}

}  // namespace

WeightsReader::WeightsReader(const std::filesystem::path& path, const std::string& basename,
                             const std::string& variant) {
  const std::string& folder = path.native();
  require_plain_basename(basename, "the base name");
  if (!variant.empty()) require_plain_basename(variant, "the variant");
  std::vector<std::string> indices{index_name(basename, variant)};
  if (!variant.empty()) indices.push_back(legacy_index_name(basename, variant));
  for (const auto& index : indices) {
    path_ = join_path(folder, index);
    if (!file_exists(path_)) continue;
    is_sharded_ = true;
    open_shards(folder, read_model_file(folder, index, kMaxJsonBytes));
    return;
  }
  const std::string name = stem_of(basename, variant) + std::string(kExtension);
  path_ = join_path(folder, name);
  if (!file_exists(path_)) fail_missing(folder, basename, variant);
  files_.emplace_back(open_model_file(folder, name));
  names_ = files_.front().names();
  for (const auto& tensor : names_) shard_of_.emplace(tensor, 0);
}

void WeightsReader::open_shards(const std::string& folder, std::string_view index) {
  const ShardIndex shards = parse_shard_index(index, path_);
  for (const auto& [file, expected] : shards) {
    require<FileError>(file_exists(join_path(folder, file)), "{}: the shard {} is missing", path_,
                       escaped(file));
    const SafetensorsFile& shard = files_.emplace_back(open_model_file(folder, file));
    for (const auto& tensor : shard.names()) {
      require<FileError>(expected.contains(tensor),
                         "{}: the shard {} holds tensor {}, which the index does not place there", path_,
                         escaped(file), escaped(tensor));
      shard_of_.emplace(tensor, files_.size() - 1);
      names_.push_back(tensor);
    }
    for (const auto& tensor : expected)
      require<FileError>(shard.contains(tensor), "{}: the shard {} lacks tensor {}", path_, escaped(file),
                         escaped(tensor));
  }
}

bool WeightsReader::contains(std::string_view name) const { return shard_of_.find(name) != shard_of_.end(); }

const SafetensorsFile& WeightsReader::file_of(std::string_view name) const {
  const auto found = shard_of_.find(name);
  require<FileError>(found != shard_of_.end(), "{}: there is no tensor {} among {}", path_, escaped(name),
                     names_.size());
  return files_[found->second];
}

const SafetensorsInfo& WeightsReader::info(std::string_view name) const { return file_of(name).info(name); }

at::Tensor WeightsReader::get(std::string_view name, at::Device device,
                              std::optional<at::ScalarType> dtype) const {
  return file_of(name).get(name, device, dtype);
}

TensorMap load_weights(const std::filesystem::path& folder, const std::string& basename,
                       const LoadWeightsOptions& options) {
  const WeightsReader reader(folder, basename, options.variant);
  TensorMap tensors;
  for (const auto& name : reader.names())
    tensors.insert(name, reader.get(name, options.device, options.dtype));
  return tensors;
}

void save_weights(const TensorMap& tensors, const std::filesystem::path& path, const std::string& basename,
                  const SaveWeightsOptions& options) {
  const std::string& folder = path.native();
  require_plain_basename(basename, "the base name");
  if (!options.variant.empty()) require_plain_basename(options.variant, "the variant");
  require<ConfigError>(options.max_shard_size > 0,
                       "max_shard_size is {}, expected a positive number of bytes", options.max_shard_size);
  const std::vector<TensorMap> parts = split(tensors, static_cast<uint64_t>(options.max_shard_size));
  const bool is_sharded = parts.size() > 1;
  const std::string stem = stem_of(basename, options.variant);
  const std::string single = stem + std::string(kExtension);
  const std::string index = index_name(basename, options.variant);
  std::vector<std::string> files;
  for (std::size_t i = 0; i < parts.size(); ++i)
    files.push_back(is_sharded ? fmt::format("{}-{:05}-of-{:05}{}", stem, i + 1, parts.size(), kExtension)
                               : single);

  create_folders(folder);
  // All files are complete on the disk before the first one gets its name, so a full disk leaves the old save
  // intact.
  const std::map<std::string, std::string> metadata{{"format", "pt"}};
  std::vector<std::unique_ptr<AtomicFile>> finished;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    auto& file = *finished.emplace_back(std::make_unique<AtomicFile>(join_path(folder, files[i])));
    write_safetensors(parts[i], file, metadata);
    file.finish();
  }
  if (is_sharded) {
    auto& file = *finished.emplace_back(std::make_unique<AtomicFile>(join_path(folder, index)));
    file.write(index_of(parts, files));
    file.finish();
  }
  // The folder is readable at any time: it holds the old save until the index changes, then the new save.
  const std::string old_index = index_in_use(folder, basename, options.variant);
  if (!old_index.empty()) keep_old_shards(folder, old_index, stem, files);
  for (std::size_t i = 0; i < files.size(); ++i) finished[i]->publish();
  sync_folder(folder);
  if (is_sharded) {
    finished.back()->publish();
    sync_folder(folder);
  }
  // A legacy index has lower priority. It must not become active when the index before it is removed.
  if (!options.variant.empty()) remove_file(join_path(folder, legacy_index_name(basename, options.variant)));
  sync_folder(folder);
  if (!is_sharded) remove_file(join_path(folder, index));
  sync_folder(folder);

  // The new save is complete now, so the files that it does not use can be removed.
  for (const auto& name : list_folder(folder)) {
    const bool is_used = std::find(files.begin(), files.end(), name) != files.end();
    if (!is_used && (name == single || is_old_shard(name, basename, options.variant)))
      remove_file(join_path(folder, name));
  }
  sync_folder(folder);
}

}  // namespace diffusers

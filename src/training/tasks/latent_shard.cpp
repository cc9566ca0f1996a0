#include "training/tasks/latent_shard.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include "core/json.h"
#include "core/require.h"
#include "io/posix_file.h"
#include "io/tar_reader.h"
#include "io/tar_writer.h"

namespace diffusers {
inline namespace internal {
namespace {

constexpr const char* kAboutMember = "__latents__/about.json";
constexpr std::size_t kMostLatentText = std::size_t{1} << 20;
/// Largest header of an array.
constexpr std::size_t kMostNpyHeader = 256;
constexpr std::string_view kNpyStart = "{'descr': '<f4', 'fortran_order': False, 'shape': (";
constexpr std::string_view kNpyEnd = "), }";

std::string sample_key(int64_t index) { return fmt::format("{:09}", index); }
std::string array_name(int64_t index, int64_t variant) {
  return sample_key(index) + (variant == 0 ? ".npy" : ".mirrored.npy");
}

/// Returns the header of NumPy's format 1.0, whose length is a multiple of 64.
std::string npy_header(at::IntArrayRef shape) {
  std::string text =
      std::string(kNpyStart) + fmt::format("{}", fmt::join(shape, ", ")) + std::string(kNpyEnd);
  text.resize((10 + text.size() + 1 + 63) / 64 * 64 - 10 - 1, ' ');
  text += '\n';
  std::string header("\x93NUMPY\x01\x00", 8);
  header += static_cast<char>(text.size() % 256);
  header += static_cast<char>(text.size() / 256);
  return header + text;
}

/// Reads the shape from the header of an array that `npy_header` wrote.
/// @return nullopt for another header
std::optional<std::vector<int64_t>> npy_shape(std::string_view bytes) {
  if (bytes.size() < 10) return std::nullopt;
  std::string_view text = bytes.substr(10);
  if (!text.starts_with(kNpyStart)) return std::nullopt;
  text.remove_prefix(kNpyStart.size());
  std::vector<int64_t> shape;
  while (true) {
    int64_t side = -1;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), side);
    if (error != std::errc() || side < 1 || side > (1 << 20)) return std::nullopt;
    shape.push_back(side);
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    if (!text.starts_with(", ")) break;
    text.remove_prefix(2);
  }
  if (shape.size() != 3 || !bytes.starts_with(npy_header(shape))) return std::nullopt;
  return shape;
}

/// Place of the data of a member in the file.
struct MemberPlace {
  uint64_t offset = 0, size = 0;
};

class ShardLatents : public LatentFile {
 public:
  explicit ShardLatents(const std::string& path) : file_(path) {
    TarReader reader(path);
    while (const auto member = reader.next()) {
      if (member->name.ends_with(".npy")) {
        places_[member->name] = {member->offset, member->size};
      } else if (member->name.ends_with(".json")) {
        const std::string place = fmt::format("{}: member {}", path, escaped(member->name));
        Json object = parse_json(reader.read(kMostLatentText), place);
        require<FileError>(object.is_object(), "{} is {}, expected an object", place, json_excerpt(object));
        if (member->name == kAboutMember) {
          about_ = std::move(object);
        } else {
          add_hashes(object, place);
        }
      }
    }
  }

  std::string about(const std::string& key) const override {
    const auto found = about_.find(key);
    return found == about_.end() || !found->is_string() ? "" : found->get<std::string>();
  }
  std::vector<uint64_t> hashes(int64_t samples, int64_t variants) const override {
    const auto found = about_.find("variants");
    const bool fits = samples * variants == static_cast<int64_t>(hashes_.size()) && found != about_.end() &&
                      found->is_number_integer() && found->get<int64_t>() == variants;
    return fits ? hashes_ : std::vector<uint64_t>{};
  }
  bool contains(int64_t index, int64_t variant) const override {
    return places_.contains(array_name(index, variant));
  }
  Tensor get(int64_t index, int64_t variant) const override {
    const std::string name = array_name(index, variant);
    const auto found = places_.find(name);
    require<FileError>(found != places_.end(), "{}: there is no member {}", file_.path(), escaped(name));
    const MemberPlace& place = found->second;
    std::string head(static_cast<std::size_t>(std::min<uint64_t>(place.size, kMostNpyHeader)), '\0');
    file_.read(head.data(), head.size(), place.offset);
    const auto shape = npy_shape(head);
    require<FileError>(shape.has_value(), "{}: member {} is not an array of float32 [C, h, w]", file_.path(),
                       escaped(name));
    const std::size_t skipped = npy_header(*shape).size();
    const uint64_t bytes = static_cast<uint64_t>((*shape)[0] * (*shape)[1] * (*shape)[2]) * sizeof(float);
    require<FileError>(place.size == skipped + bytes, "{}: member {} has {} bytes, expected {} for {}",
                       file_.path(), escaped(name), place.size, skipped + bytes, shape_string(*shape));
    Tensor tensor = at::empty(*shape, at::kFloat);
    file_.read(tensor.mutable_data_ptr(), static_cast<std::size_t>(bytes), place.offset + skipped);
    return tensor;
  }

 private:
  void add_hashes(const Json& object, const std::string& place) {
    const auto found = object.find("hashes");
    require<FileError>(found != object.end() && found->is_array(), "{} has no list \"hashes\"", place);
    for (const Json& item : *found) {
      require<FileError>(item.is_number_unsigned(), "{}: \"hashes\" holds {}, expected whole numbers", place,
                         json_excerpt(item));
      hashes_.push_back(item.get<uint64_t>());
    }
  }

  InputFile file_;
  Json about_ = Json::object();
  std::map<std::string, MemberPlace> places_;
  std::vector<uint64_t> hashes_;
};

}  // namespace

std::shared_ptr<const LatentFile> open_latent_shard(const std::string& path) {
  return std::make_shared<ShardLatents>(path);
}

void write_latent_shard(const std::string& path, const LatentEntries& entries) {
  TarWriter writer(path);
  writer.add(
      kAboutMember,
      Json{{"format", entries.format}, {"fingerprint", entries.fingerprint}, {"variants", entries.variants}}
          .dump());
  std::size_t row = 0;
  for (const int64_t index : entries.indices) {
    Json hashes = Json::array();
    for (int64_t variant = 0; variant < entries.variants; ++variant, ++row) {
      const Tensor moments = entries.moments[row].contiguous();
      std::string bytes = npy_header(moments.sizes());
      bytes.append(static_cast<const char*>(moments.const_data_ptr()), moments.nbytes());
      writer.add(array_name(index, variant), bytes);
      hashes.push_back(entries.hashes[row]);
    }
    writer.add(sample_key(index) + ".json", Json{{"index", index}, {"hashes", hashes}}.dump());
  }
  writer.commit();
}

}  // namespace internal
}  // namespace diffusers

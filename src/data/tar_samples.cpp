#include "data/tar_samples.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "core/json.h"
#include "core/require.h"
#include "core/utf8.h"
#include "io/image_codec.h"
#include "io/posix_file.h"

namespace diffusers {
inline namespace internal {
namespace {

/// Largest caption, label or JSON of a sample.
constexpr std::size_t kMostTarText = std::size_t{1} << 20;
constexpr int64_t kMostTarLabel = INT32_MAX;

enum class TarKind { kOther, kImage, kWebp, kText, kClass, kJson };

/// Key and kind of a member.
struct TarName {
  std::string_view key;
  TarKind kind = TarKind::kOther;
};

TarKind kind_of_extension(std::string extension) {
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c); });
  if (extension == "jpg" || extension == "jpeg" || extension == "png") return TarKind::kImage;
  if (extension == "webp") return TarKind::kWebp;
  if (extension == "txt") return TarKind::kText;
  if (extension == "cls") return TarKind::kClass;
  return extension == "json" ? TarKind::kJson : TarKind::kOther;
}

/// Returns nullopt for a member that belongs to no sample.
std::optional<TarName> split_name(std::string_view name) {
  const auto slash = name.rfind('/');
  const std::size_t base = slash == std::string_view::npos ? 0 : slash + 1;
  const auto dot = name.find('.', base);
  if (dot == std::string_view::npos || dot == base) return std::nullopt;
  if (name.starts_with("__")) {
    const std::string_view first = name.substr(0, name.find('/'));
    if (first.size() >= 4 && first.ends_with("__")) return std::nullopt;
  }
  const TarKind kind = kind_of_extension(std::string(name.substr(dot + 1)));
  if (kind == TarKind::kOther) return std::nullopt;
  return TarName{name.substr(0, dot), kind};
}

std::optional<int64_t> label_of(std::string_view text) {
  const auto begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string_view::npos) return std::nullopt;
  text = text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
  int64_t label = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), label);
  if (error != std::errc() || end != text.data() + text.size() || label < 0 || label > kMostTarLabel)
    return std::nullopt;
  return label;
}

const Json* value_of(const Json& object, const std::string& column) {
  const auto found = object.find(column);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

}  // namespace

/// The members of a sample that were found so far.
struct TarSamples::Found {
  std::string key;
  bool has_image = false, has_text = false, has_class = false, has_json = false;
  std::string text, label, json;  // read only if they are needed
};

TarSamples::TarSamples(TarReader reader, TarFields fields)
    : reader_(std::move(reader)), fields_(std::move(fields)) {}

std::optional<EncodedSample> TarSamples::next() {
  EncodedSample sample;
  if (!advance(&sample)) return std::nullopt;
  return sample;
}

bool TarSamples::skip() { return advance(nullptr); }

/// @param sample null: passes over the sample
bool TarSamples::advance(EncodedSample* sample) {
  if (!std::exchange(has_begun_, true)) pending_ = reader_.next();
  Found found;
  bool is_empty = true;
  for (; pending_; pending_ = reader_.next()) {
    const std::optional<TarName> name = split_name(pending_->name);
    if (!name) continue;
    if (is_empty) found.key = name->key;
    is_empty = false;
    if (name->key != found.key) break;
    const auto add = [&](bool& has_member) {
      if (std::exchange(has_member, true))
        fail<FileError>("{}: member {}: sample {} has two {}, expected one", reader_.path(),
                        escaped(pending_->name), escaped(found.key),
                        name->kind == TarKind::kImage ? "images" : "members of this kind");
    };
    const auto read = [&](bool is_needed, std::string& data) {
      if (sample != nullptr && is_needed) data = reader_.read(kMostTarText);
    };
    switch (name->kind) {
      case TarKind::kImage:
        add(found.has_image);
        if (sample == nullptr) break;
        sample->image_name = pending_->name;
        sample->image = reader_.read(kMaxImageFile);
        break;
      case TarKind::kText:
        add(found.has_text);
        read(fields_.caption.is_member, found.text);
        break;
      case TarKind::kClass:
        add(found.has_class);
        read(fields_.label.is_member, found.label);
        break;
      case TarKind::kJson:
        add(found.has_json);
        read(fields_.need_json(), found.json);
        break;
      default:
        fail<FileError>("{}: member {} is a WebP image, expected PNG or JPEG", reader_.path(),
                        escaped(pending_->name));
    }
  }
  if (is_empty) return false;
  const auto require_member = [&](bool has_member, const char* extensions) {
    if (!has_member)
      fail<FileError>("{}: sample {} has no member {}, expected one for each sample", reader_.path(),
                      escaped(found.key), extensions);
  };
  require_member(found.has_image, ".jpg, .jpeg or .png");
  require_member(found.has_text || !fields_.caption.is_member, ".txt");
  require_member(found.has_class || !fields_.label.is_member, ".cls");
  require_member(found.has_json || !fields_.need_json(), ".json");
  if (sample != nullptr) read_members(*sample, found);
  return true;
}

/// Reads the caption and the label of a sample.
void TarSamples::read_members(EncodedSample& sample, Found& found) {
  sample.key = std::move(found.key);
  const auto place = [&](const char* extension) {
    return fmt::format("{}: member {}", reader_.path(), escaped(sample.key + extension));
  };
  if (fields_.caption.is_member) {
    if (!is_utf8(found.text)) fail<FileError>("{} is not UTF-8", place(".txt"));
    sample.captions.push_back(std::move(found.text));
  }
  if (fields_.label.is_member) {
    sample.label = label_of(found.label);
    if (!sample.label)
      fail<FileError>("{} is {}, expected a whole number from 0 to {}", place(".cls"),
                      escaped(std::string_view(found.label).substr(0, 64)), kMostTarLabel);
  }
  if (!fields_.need_json()) return;
  const Json object = parse_json(found.json, place(".json"));
  if (!object.is_object())
    fail<FileError>("{} is {}, expected an object", place(".json"), json_excerpt(object));
  const auto value = [&](const std::string& column) -> const Json& {
    const Json* const found_value = value_of(object, column);
    if (found_value == nullptr) fail<FileError>("{} has no {}", place(".json"), json_excerpt(column));
    return *found_value;
  };
  if (const std::string& column = fields_.caption.column; !column.empty()) {
    const Json& caption = value(column);
    const auto is_text = [](const Json& item) { return item.is_string(); };
    if (is_text(caption))
      sample.captions.push_back(caption.get<std::string>());
    else if (caption.is_array() && !caption.empty() && std::all_of(caption.begin(), caption.end(), is_text))
      sample.captions = caption.get<std::vector<std::string>>();
    else
      fail<FileError>("{}: {} is {}, expected a string or a list of one or more strings", place(".json"),
                      json_excerpt(column), json_excerpt(caption));
  }
  if (const std::string& column = fields_.label.column; !column.empty()) {
    const Json& label = value(column);
    if (!label.is_number_unsigned() || label.get<uint64_t>() > static_cast<uint64_t>(kMostTarLabel))
      fail<FileError>("{}: {} is {}, expected a whole number from 0 to {}", place(".json"),
                      json_excerpt(column), json_excerpt(label), kMostTarLabel);
    sample.label = label.get<int64_t>();
  }
}

TarFields find_tar_fields(TarReader reader, const std::string& caption_column,
                          const std::string& label_column) {
  TarFields fields{.caption = {.column = caption_column}, .label = {.column = label_column}};
  Json json;
  bool has_json = false;
  std::string key;
  while (const auto member = reader.next()) {
    const auto name = split_name(member->name);
    if (!name) continue;
    if (key.empty()) key = name->key;
    if (name->key != key) break;
    if (name->kind == TarKind::kText && caption_column.empty()) fields.caption.is_member = true;
    if (name->kind == TarKind::kClass && label_column.empty()) fields.label.is_member = true;
    if (name->kind != TarKind::kJson) continue;
    has_json = true;
    json = parse_json(reader.read(kMostTarText),
                      fmt::format("{}: member {}", reader.path(), escaped(member->name)));
  }
  if (key.empty())
    fail<FileError>("{}: the shard has no samples, expected members such as KEY.jpg and KEY.txt",
                    reader.path());
  const auto choose = [&](TarField& field, std::initializer_list<const char*> columns, auto is_value) {
    if (!field.is_absent() || !has_json || !json.is_object()) return;
    for (const char* column : columns)
      if (const Json* value = value_of(json, column);
          field.is_absent() && value != nullptr && is_value(*value))
        field.column = column;
  };
  choose(fields.caption, {"caption", "text"},
         [](const Json& value) { return value.is_string() || value.is_array(); });
  choose(fields.label, {"cls", "label"}, [](const Json& value) { return value.is_number_unsigned(); });
  return fields;
}

}  // namespace internal
}  // namespace diffusers

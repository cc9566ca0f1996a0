#include "io/safetensors_header.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <string>
#include <unordered_set>
#include <utility>

#include "core/json.h"
#include "core/require.h"
#include "io/posix_file.h"

namespace diffusers {
inline namespace internal {
namespace {

/// Deepest nesting. The JSON reader of the reference implementation fails at 128 levels.
constexpr std::size_t kDeepestHeader = 127;
/// Largest number of dimensions. Without a limit a header could declare gigabytes of dimensions.
constexpr std::size_t kMostDimensions = 4096;

/// Receives the events of the JSON parser and keeps only the fields that the format defines. Values of
/// unknown fields are checked by the parser and dropped, as in the reference implementation, so a large
/// header needs little memory.
class HeaderReader {
 public:
  using number_integer_t = Json::number_integer_t;
  using number_unsigned_t = Json::number_unsigned_t;
  using number_float_t = Json::number_float_t;
  using string_t = Json::string_t;
  using binary_t = Json::binary_t;

  HeaderReader(SafetensorsHeader& header, std::string_view where) : header_(header), where_(where) {}

  bool null() {
    if (place_ == Place::kRootValue && key_ == kMetadata) return leave_value();
    return other_value("null");
  }
  bool boolean(bool) { return other_value("a boolean"); }
  bool number_integer(number_integer_t value) { return other_value(fmt::format("{}", value)); }
  bool number_float(number_float_t, const string_t& text) { return other_value(text); }
  bool binary(binary_t&) { return other_value("binary data"); }
  bool number_unsigned(number_unsigned_t value) {
    if (place_ == Place::kShape) {
      require<FileError>(value <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()),
                         "{}: tensor {} has a dimension of {}", where_, escaped(entry_.name), value);
      require<FileError>(entry_.shape.size() < kMostDimensions, "{}: tensor {} has more than {} dimensions",
                         where_, escaped(entry_.name), kMostDimensions);
      entry_.shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (place_ == Place::kOffsets) {
      require<FileError>(offsets_ < 2, "{}: tensor {} has more than two data_offsets", where_,
                         escaped(entry_.name));
      (offsets_++ == 0 ? entry_.begin : entry_.end) = value;
      return true;
    }
    return other_value(fmt::format("{}", value));
  }
  bool string(string_t& value) {
    if (place_ == Place::kMetadata) {
      header_.metadata[key_] = std::move(value);
      return true;
    }
    if (place_ == Place::kField && field_ == Field::kDtype) {
      const auto found = std::find_if(kSafetensorsDtypes.begin(), kSafetensorsDtypes.end(),
                                      [&](const SafetensorsDtype& dtype) { return dtype.name == value; });
      require<FileError>(found != kSafetensorsDtypes.end(), "{}: tensor {} has the unknown dtype {}", where_,
                         escaped(entry_.name), escaped(value));
      entry_.dtype = static_cast<std::size_t>(found - kSafetensorsDtypes.begin());
      return leave_field();
    }
    return other_value("a string");
  }

  bool start_object(std::size_t) {
    descend();
    switch (place_) {
      case Place::kStart:
        place_ = Place::kRoot;
        return true;
      case Place::kRootValue:
        if (key_ == kMetadata) {
          place_ = Place::kMetadata;
          keys_.clear();
        } else {
          begin_entry(/*positional=*/false);
        }
        return true;
      default:
        return skip_structure("an object");
    }
  }
  bool key(string_t& name) {
    switch (place_) {
      case Place::kRoot:
        if (name == kMetadata) {
          require<FileError>(!std::exchange(has_metadata_, true), "{}: {} occurs twice in the header", where_,
                             kMetadata);
        }
        place_ = Place::kRootValue;
        key_ = std::move(name);
        return true;
      case Place::kMetadata:
        require<FileError>(keys_.insert(name).second, "{}: the metadata key {} occurs twice", where_,
                           escaped(name));
        key_ = std::move(name);
        return true;
      case Place::kEntry:
        field_ = name == "dtype"          ? Field::kDtype
                 : name == "shape"        ? Field::kShape
                 : name == "data_offsets" ? Field::kOffsets
                                          : Field::kUnknown;
        enter_field();
        return true;
      default:
        return true;
    }
  }
  bool end_object() {
    --depth_;
    switch (place_) {
      case Place::kRoot:
        place_ = Place::kDone;
        return true;
      case Place::kMetadata:
        return leave_value();
      case Place::kEntry:
        return finish_entry();
      default:
        return end_skipped();
    }
  }
  bool start_array(std::size_t) {
    descend();
    if (place_ == Place::kRootValue && key_ != kMetadata) {
      begin_entry(/*positional=*/true);
      return true;
    }
    if (place_ == Place::kField && field_ == Field::kShape) {
      place_ = Place::kShape;
      return true;
    }
    if (place_ == Place::kField && field_ == Field::kOffsets) {
      place_ = Place::kOffsets;
      return true;
    }
    return skip_structure("a list");
  }
  bool end_array() {
    --depth_;
    switch (place_) {
      case Place::kShape:
        return leave_field();
      case Place::kOffsets:
        require<FileError>(offsets_ == 2, "{}: tensor {} has {} data_offsets, expected two", where_,
                           escaped(entry_.name), offsets_);
        return leave_field();
      case Place::kField:
        return finish_entry();  // only a positional entry can end here
      default:
        return end_skipped();
    }
  }
  bool parse_error(std::size_t, const std::string&, const Json::exception& error) {
    fail<FileError>("{}: the header is not valid JSON: {}", where_, json_reason(error));
  }

 private:
  static constexpr std::string_view kMetadata = "__metadata__";
  enum class Place {
    kStart,
    kRoot,
    kRootValue,
    kMetadata,
    kEntry,
    kField,
    kShape,
    kOffsets,
    kSkipped,
    kDone
  };
  enum class Field { kDtype, kShape, kOffsets, kUnknown };

  void descend() {
    require<FileError>(++depth_ <= kDeepestHeader, "{}: the header is nested deeper than {} levels", where_,
                       kDeepestHeader);
  }
  /// Handles a scalar at a place where the format has none.
  bool other_value(std::string_view what) {
    if (place_ == Place::kSkipped) return true;
    if (place_ == Place::kField && field_ == Field::kUnknown) return leave_field();
    refuse(what);
  }
  bool skip_structure(std::string_view what) {
    if (place_ != Place::kSkipped) {
      if (place_ != Place::kField || field_ != Field::kUnknown) refuse(what);
      place_ = Place::kSkipped;
      skipped_from_ = depth_;
    }
    return true;
  }
  bool end_skipped() { return depth_ + 1 == skipped_from_ ? leave_field() : true; }
  [[noreturn]] void refuse(std::string_view what) const {
    switch (place_) {
      case Place::kMetadata:
        fail<FileError>("{}: metadata {} is {}, expected a string", where_, escaped(key_), what);
      case Place::kShape:
        fail<FileError>("{}: shape of tensor {} holds {}", where_, escaped(entry_.name), what);
      case Place::kOffsets:
        fail<FileError>("{}: data_offsets of tensor {} hold {}", where_, escaped(entry_.name), what);
      case Place::kField:
        fail<FileError>("{}: {} of tensor {} is {}", where_,
                        field_ == Field::kDtype   ? "dtype"
                        : field_ == Field::kShape ? "shape"
                                                  : "data_offsets",
                        escaped(entry_.name), what);
      case Place::kRootValue:
        fail<FileError>("{}: the entry {} is {}", where_, escaped(key_), what);
      default:
        fail<FileError>("{}: the header is {}, expected a JSON object", where_, what);
    }
  }

  /// Begins an entry. The reference implementation also accepts an array [dtype, shape, data_offsets].
  void begin_entry(bool positional) {
    entry_ = {};
    entry_.name = key_;
    offsets_ = 0;
    positional_ = positional;
    seen_[0] = seen_[1] = seen_[2] = false;
    place_ = Place::kEntry;
    if (!positional) return;
    field_ = Field::kDtype;
    place_ = Place::kField;
  }
  void enter_field() {
    if (field_ != Field::kUnknown) {
      bool& seen = seen_[static_cast<std::size_t>(field_)];
      require<FileError>(!seen, "{}: a field of tensor {} occurs twice", where_, escaped(entry_.name));
      seen = true;
    }
    place_ = Place::kField;
  }
  bool leave_field() {
    place_ = Place::kEntry;
    if (!positional_) return true;
    require<FileError>(field_ != Field::kUnknown, "{}: the entry of tensor {} has more than three elements",
                       where_, escaped(entry_.name));
    seen_[static_cast<std::size_t>(field_)] = true;
    field_ = static_cast<Field>(static_cast<int>(field_) + 1);
    place_ = Place::kField;
    return true;
  }
  bool finish_entry() {
    require<FileError>(seen_[0] && seen_[1] && seen_[2], "{}: tensor {} lacks dtype, shape or data_offsets",
                       where_, escaped(entry_.name));
    header_.entries.push_back(std::move(entry_));
    return leave_value();
  }
  bool leave_value() {
    place_ = Place::kRoot;
    return true;
  }

  SafetensorsHeader& header_;
  std::string_view where_;
  Place place_ = Place::kStart;
  Field field_ = Field::kUnknown;
  std::string key_;
  SafetensorsEntry entry_;
  int offsets_ = 0;
  bool positional_ = false;
  bool seen_[3] = {};
  std::size_t depth_ = 0;
  std::size_t skipped_from_ = 0;
  bool has_metadata_ = false;
  std::unordered_set<std::string> keys_;
};

/// Checks that names are unique. It compares hashes, which take a fraction of the memory of a set of names.
void require_unique_names(const std::vector<SafetensorsEntry>& entries, std::string_view where) {
  std::vector<std::size_t> hashes;
  hashes.reserve(entries.size());
  for (const auto& entry : entries) hashes.push_back(std::hash<std::string>()(entry.name));
  std::sort(hashes.begin(), hashes.end());
  if (std::adjacent_find(hashes.begin(), hashes.end()) == hashes.end()) return;
  std::unordered_set<std::string_view> names;
  for (const auto& entry : entries)
    require<FileError>(names.insert(entry.name).second, "{}: {} occurs twice in the header", where,
                       escaped(entry.name));
}

/// Returns the number of bytes that shape and dtype require.
uint64_t span_of(const SafetensorsEntry& entry, std::string_view where) {
  uint64_t bits = 1;
  bool overflow = false;
  for (const int64_t size : entry.shape)
    overflow |= __builtin_mul_overflow(bits, static_cast<uint64_t>(size), &bits);
  overflow |= __builtin_mul_overflow(bits, uint64_t{kSafetensorsDtypes[entry.dtype].bits}, &bits);
  require<FileError>(!overflow, "{}: the size of tensor {} does not fit 64 bits", where, escaped(entry.name));
  require<FileError>(bits % 8 == 0, "{}: tensor {} does not end at a whole byte", where, escaped(entry.name));
  return bits / 8;
}

}  // namespace

uint64_t safetensors_header_size(const unsigned char (&prefix)[kSafetensorsPrefix], uint64_t file_size,
                                 std::string_view where) {
  uint64_t size = 0;
  for (std::size_t i = 0; i < kSafetensorsPrefix; ++i) size |= uint64_t{prefix[i]} << (8 * i);
  require<FileError>(size <= kSafetensorsMaxHeader, "{}: a header of {} bytes, at most {} are accepted",
                     where, size, kSafetensorsMaxHeader);
  require<FileError>(file_size >= kSafetensorsPrefix && size <= file_size - kSafetensorsPrefix,
                     "{}: a header of {} bytes in a file of {} bytes", where, size, file_size);
  return size;
}

SafetensorsHeader parse_safetensors_header(std::string_view text, uint64_t data_size,
                                           std::string_view where) {
  // The JSON parser treats NUL as the end of the text and skips a byte-order mark.
  require<FileError>(text.find('\0') == std::string_view::npos, "{}: the header holds a NUL byte", where);
  require<FileError>(!text.starts_with("\xef\xbb\xbf"), "{}: the header starts with a byte-order mark",
                     where);
  SafetensorsHeader header;
  HeaderReader reader(header, where);
  Json::sax_parse(text.begin(), text.end(), &reader);

  auto& entries = header.entries;
  require_unique_names(entries, where);
  std::stable_sort(entries.begin(), entries.end(),
                   [](const SafetensorsEntry& left, const SafetensorsEntry& right) {
                     return std::pair(left.begin, left.end) < std::pair(right.begin, right.end);
                   });
  uint64_t covered = 0;
  for (const auto& entry : entries) {
    require<FileError>(entry.begin <= entry.end, "{}: tensor {} ends at byte {} before it begins at {}",
                       where, escaped(entry.name), entry.end, entry.begin);
    require<FileError>(entry.begin >= covered,
                       "{}: tensor {} begins at byte {} inside the tensor that ends at {}", where,
                       escaped(entry.name), entry.begin, covered);
    require<FileError>(entry.begin == covered, "{}: no tensor covers the bytes {} to {} before tensor {}",
                       where, covered, entry.begin, escaped(entry.name));
    const uint64_t span = span_of(entry, where);
    require<FileError>(
        entry.end - entry.begin == span, "{}: tensor {} spans {} bytes, but {} [{}] needs {}", where,
        escaped(entry.name), entry.end - entry.begin, kSafetensorsDtypes[entry.dtype].name,
        fmt::join(
            entry.shape.begin(),
            entry.shape.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(entry.shape.size(), 16)),
            ", "),
        span);
    covered = entry.end;
  }
  require<FileError>(covered == data_size, "{}: the tensors cover {} bytes of data, the file holds {}", where,
                     covered, data_size);
  return header;
}

}  // namespace internal
}  // namespace diffusers

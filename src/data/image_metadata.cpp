#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/io/files.h>

#include "core/require.h"
#include "data/image_samples.h"
#include "data/metadata_reader.h"
#include "io/open_model_file.h"
#include "io/posix_file.h"

namespace diffusers {
inline namespace internal {
namespace {

constexpr std::size_t kLargestMetadata = std::size_t{1} << 31;
constexpr uint64_t kLargestLabel = std::numeric_limits<int32_t>::max();

/// A column that is read if it exists. It must exist if the program named it.
class OptionalColumn {
 public:
  OptionalColumn(const std::string& given, const char* usual)
      : name_(given.empty() ? usual : given), is_required_(!given.empty()) {}

  const std::string& name() const { return name_; }
  /// Returns true if the row has a value.
  /// @throws FileError if a required value is missing, or if only some of the rows have a value
  bool is_in(const MetadataRow& row) {
    const bool has_value = row.has(name_);
    if (!has_value && is_required_) fail<FileError>("{} is missing", row.place(name_));
    if (!is_known_) exists_ = has_value;
    is_known_ = true;
    if (has_value != exists_)
      fail<FileError>("{} {}, unlike in the rows before", row.place(name_),
                      has_value ? "has a value" : "is missing");
    return has_value;
  }

 private:
  std::string name_;
  bool is_required_;
  bool is_known_ = false;
  bool exists_ = false;
};

std::optional<int64_t> label_number(const std::string& text) {
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number > kLargestLabel) return std::nullopt;
  return static_cast<int64_t>(number);
}

/// A column of labels: numbers, or names that get numbers in sorted order.
class LabelColumn {
 public:
  void add(const MetadataRow& row, const std::string& column) {
    const Json& value = row.value(column);
    const bool is_number = value.is_number_unsigned() && value.get<uint64_t>() <= kLargestLabel;
    if (!is_number && !value.is_string())
      fail<FileError>("{} is {}, expected a whole number from 0 or a class name", row.place(column),
                      json_excerpt(value));
    if (is_number) numbers_.push_back(value.get<int64_t>());
    if (!is_number) names_.push_back(value.get<std::string>());
    if (!numbers_.empty() && !names_.empty())
      fail<FileError>("{} is {}, but other rows have {}; expected numbers or names in all", row.place(column),
                      json_excerpt(value), is_number ? "names" : "numbers");
    is_csv_ = is_csv_ || row.is_csv();
  }

  void finish(ImageSamples& samples) {
    if (is_csv_) read_numbers();
    if (!numbers_.empty()) {
      samples.class_count = *std::max_element(numbers_.begin(), numbers_.end()) + 1;
      samples.labels = std::move(numbers_);
      return;
    }
    samples.classes = names_;
    std::sort(samples.classes.begin(), samples.classes.end());
    samples.classes.erase(std::unique(samples.classes.begin(), samples.classes.end()), samples.classes.end());
    samples.class_count = static_cast<int64_t>(samples.classes.size());
    for (const std::string& name : names_)
      samples.labels.push_back(std::lower_bound(samples.classes.begin(), samples.classes.end(), name) -
                               samples.classes.begin());
  }

 private:
  /// Reads labels as numbers if all of them are numbers, because CSV does not distinguish numbers from names.
  void read_numbers() {
    std::vector<int64_t> numbers;
    for (const std::string& name : names_)
      if (const auto number = label_number(name)) numbers.push_back(*number);
    if (numbers.size() != names_.size()) return;
    numbers_ = std::move(numbers);
  }

  std::vector<int64_t> numbers_;
  std::vector<std::string> names_;
  bool is_csv_ = false;
};

/// Builds the list of samples, row by row.
class MetadataSamples {
 public:
  MetadataSamples(const std::string& root, const ImageFolderOptions& options)
      : root_(root),
        options_(options),
        captions_(options.caption_column, "text"),
        labels_(options.label_column, "label") {
    samples_.has_metadata = true;
  }

  /// @param folder folder of the metadata file, relative to the root
  void add(const std::string& folder, const MetadataRow& row) {
    const std::string& image_column = options_.image_column;
    samples_.files.push_back(image_path(folder, row, image_column.empty() ? "file_name" : image_column));
    if (captions_.is_in(row)) samples_.captions.push_back(row.texts(captions_.name()));
    if (labels_.is_in(row)) label_values_.add(row, labels_.name());
    const auto add_image = [&](const std::string& column, std::vector<std::string>& files) {
      if (!column.empty()) files.push_back(image_path(folder, row, column));
    };
    add_image(options_.conditioning_image_column, samples_.conditioning_images);
    add_image(options_.original_image_column, samples_.original_images);
    add_image(options_.mask_column, samples_.masks);
  }

  ImageSamples finish() {
    label_values_.finish(samples_);
    return std::move(samples_);
  }

 private:
  /// Returns the path of the image that a cell names.
  std::string image_path(const std::string& folder, const MetadataRow& row, const std::string& column) const {
    const std::string name = row.text(column);
    if (is_other_image_name(name))
      fail<FileError>("{} is {}, expected a PNG or JPEG file", row.place(column), escaped(name));
    // Joining the paths would drop a leading slash.
    if (name.empty() || name.starts_with('/'))
      fail<FileError>("{} is {}, expected a path relative to the folder of the metadata", row.place(column),
                      escaped(name));
    const std::string path = join_path(folder, name);
    try {
      require_file_inside(root_, path);
    } catch (const FileError& error) {
      fail<FileError>("{} is {}: {}", row.place(column), escaped(name), error.what());
    }
    return join_path(root_, path);
  }

  const std::string& root_;
  const ImageFolderOptions& options_;
  OptionalColumn captions_;
  OptionalColumn labels_;
  LabelColumn label_values_;
  ImageSamples samples_;
};

/// Returns the part of a path before the last slash; empty if there is none.
std::string folder_of(const std::string& path) {
  const auto slash = path.rfind('/');
  return slash == std::string::npos ? "" : path.substr(0, slash);
}

}  // namespace

ImageSamples read_image_metadata(const std::string& root, const std::vector<std::string>& files,
                                 const ImageFolderOptions& options) {
  MetadataSamples samples(root, options);
  int64_t rows = 0;
  std::set<std::string> folders;
  for (const std::string& file : files) {
    const std::string where = join_path(root, file);
    const std::string folder = folder_of(file);
    require<FileError>(!file.ends_with(".parquet"),
                       "{}: Parquet is not read; expected metadata.jsonl or metadata.csv. In Python: "
                       "datasets.load_dataset(\"parquet\", data_files=...) and to_json(\"metadata.jsonl\")",
                       where);
    require<FileError>(folders.insert(folder).second,
                       "{}: the folder holds both metadata.csv and metadata.jsonl; expected one of them",
                       where);
    const std::string text = read_file_inside(root, file, kLargestMetadata);
    const int64_t before = rows;
    const auto visit = [&](const MetadataRow& row) {
      ++rows;
      samples.add(folder, row);
    };
    file.ends_with(".csv") ? read_metadata_csv(text, where, visit) : read_metadata_jsonl(text, where, visit);
    require<FileError>(rows > before, "{}: no rows, expected one for each sample", where);
  }
  return samples.finish();
}

}  // namespace internal
}  // namespace diffusers

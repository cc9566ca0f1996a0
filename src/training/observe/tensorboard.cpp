#include <algorithm>
#include <cctype>
#include <charconv>
#include <chrono>
#include <cmath>
#include <string_view>
#include <vector>

#include <diffusers/io/files.h>
#include <diffusers/io/image.h>
#include <diffusers/training/tensorboard.h>

#include <ATen/ATen.h>
#include <unistd.h>

#include "core/require.h"
#include "core/utf8.h"
#include "io/posix_file.h"
#include "training/observe/protobuf.h"
#include "training/observe/record_file.h"

namespace diffusers {
namespace {

constexpr std::string_view kEventFilePrefix = "events.out.tfevents.";
constexpr std::size_t kHistogramBins = 64;

double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string host_name() {
  char buffer[256] = {};
  if (::gethostname(buffer, sizeof(buffer) - 1) != 0 || buffer[0] == '\0') return "localhost";
  std::string name = buffer;
  for (char& c : name)
    if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '-' && c != '.') c = '_';
  return name;
}

/// Returns the largest number of seconds in the names of the existing event files.
int64_t newest_event_file(const std::filesystem::path& folder) {
  int64_t newest = 0;
  for (const std::string& name : list_folder(folder)) {
    if (!name.starts_with(kEventFilePrefix)) continue;
    // The seconds have ten digits until the year 2286. Longer numbers belong to other files.
    const std::string digits = name.substr(kEventFilePrefix.size(), 10);
    int64_t seconds = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), seconds);
    if (error == std::errc() && end == digits.data() + digits.size()) newest = std::max(newest, seconds);
  }
  return newest;
}

/// TensorBoard reads the files of a folder in the order of their names, and then only the last one.
std::string new_event_file(const std::filesystem::path& folder) {
  create_folders(folder);
  const int64_t seconds = std::max(static_cast<int64_t>(wall_seconds()), newest_event_file(folder) + 1);
  return join_path(folder, fmt::format("{}{:010}.{}.{}", kEventFilePrefix, seconds, host_name(), ::getpid()));
}

// The messages of TensorBoard's event.proto, summary.proto and tensor.proto, which define the numbers of the
// fields.

ProtoMessage event_at(int64_t step) {
  ProtoMessage event;
  event.real(1, wall_seconds()).integer(2, step);
  return event;
}

ProtoMessage summary_value(const std::string& tag) {
  require<ConfigError>(!tag.empty(), "the tag of a TensorBoard entry is empty");
  // Python's reader refuses the whole file if one string is not UTF-8.
  require<ConfigError>(is_utf8(tag), "the tag {} is not UTF-8", escaped(tag));
  ProtoMessage value;
  value.text(1, tag);
  return value;
}

void append_summary(RecordFile& file, const ProtoMessage& value, int64_t step) {
  ProtoMessage summary;
  summary.message(1, value);
  file.append(event_at(step).message(5, summary).bytes());
}

ProtoMessage histogram_of(const double* values, int64_t count) {
  const auto [least, greatest] = std::minmax_element(values, values + count);
  const double low = *least;
  const double high = *greatest;
  std::vector<double> limits;
  if (low < high) {
    for (std::size_t i = 1; i < kHistogramBins; ++i) {
      const double share = static_cast<double>(i) / kHistogramBins;
      limits.push_back(low * (1 - share) + high * share);
    }
  }
  limits.push_back(high);
  std::vector<double> counts(limits.size(), 0.0);
  double sum = 0;
  double sum_of_squares = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double value = values[i];
    sum += value;
    sum_of_squares += value * value;
    ++counts[static_cast<std::size_t>(std::lower_bound(limits.begin(), limits.end() - 1, value) -
                                      limits.begin())];
  }
  ProtoMessage histogram;
  histogram.real(1, low).real(2, high).real(3, static_cast<double>(count)).real(4, sum);
  histogram.real(5, sum_of_squares).reals(6, limits).reals(7, counts);
  return histogram;
}

}  // namespace

TensorBoardWriter::TensorBoardWriter(const std::filesystem::path& folder, std::optional<int64_t> purge_step)
    : file_(std::make_unique<RecordFile>(new_event_file(folder))) {
  file_->append(event_at(0).text(3, "brain.Event:2").bytes());
  if (!purge_step) return;
  constexpr int64_t kStart = 1;
  ProtoMessage session;
  session.integer(1, kStart);
  file_->append(event_at(*purge_step).message(7, session).bytes());
}

TensorBoardWriter::~TensorBoardWriter() = default;

const std::string& TensorBoardWriter::path() const { return file_->path(); }

void TensorBoardWriter::add_scalar(const std::string& tag, double value, int64_t step) {
  append_summary(*file_, summary_value(tag).real32(2, static_cast<float>(value)), step);
}

void TensorBoardWriter::add_image(const std::string& tag, const Tensor& image, int64_t step) {
  ProtoMessage value = summary_value(tag);
  require<TensorError>(image.defined() && image.dim() == 3 && (image.size(0) == 1 || image.size(0) == 3),
                       "the image {} is {}, expected [C, H, W] with 1 or 3 channels", escaped(tag),
                       describe(image));
  ProtoMessage encoded;
  encoded.integer(1, image.size(1)).integer(2, image.size(2)).integer(3, image.size(0));
  encoded.text(4, encode_png(image));
  append_summary(*file_, value.message(4, encoded), step);
}

void TensorBoardWriter::add_histogram(const std::string& tag, const Tensor& values, int64_t step) {
  ProtoMessage value = summary_value(tag);
  require<TensorError>(values.defined() && values.is_floating_point() && values.numel() > 0,
                       "the histogram {} is of {}, expected a floating tensor that is not empty",
                       escaped(tag), describe(values));
  const Tensor numbers = values.detach().to(at::kCPU, at::kDouble).contiguous();
  const int64_t nonfinite = numbers.numel() - numbers.isfinite().sum().item<int64_t>();
  require<TensorError>(nonfinite == 0, "the histogram {} is of {}, of which {} values are not finite",
                       escaped(tag), describe(values), nonfinite);
  append_summary(*file_, value.message(5, histogram_of(numbers.const_data_ptr<double>(), numbers.numel())),
                 step);
}

void TensorBoardWriter::add_text(const std::string& tag, const std::string& markdown, int64_t step) {
  ProtoMessage value = summary_value(tag);
  require<ConfigError>(is_utf8(markdown), "the text {} is not UTF-8: {}", escaped(tag), escaped(markdown));
  constexpr int64_t kStringType = 7;
  constexpr int64_t kTensorData = 2;
  ProtoMessage plugin;
  plugin.text(1, "text");
  ProtoMessage metadata;
  metadata.message(1, plugin).integer(4, kTensorData);
  ProtoMessage scalar_shape;
  ProtoMessage tensor;
  tensor.integer(1, kStringType).message(2, scalar_shape).text(8, markdown);
  append_summary(*file_, value.message(9, metadata).message(8, tensor), step);
}

void TensorBoardWriter::flush() { file_->sync(); }

}  // namespace diffusers

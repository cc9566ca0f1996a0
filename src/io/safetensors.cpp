#include <algorithm>
#include <array>
#include <future>
#include <system_error>
#include <unordered_map>
#include <utility>

#include <diffusers/core/tensor.h>
#include <diffusers/io/safetensors.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <sys/mman.h>

#include "core/foreign_content.h"
#include "core/json.h"
#include "core/require.h"
#include "io/posix_file.h"
#include "io/safetensors_header.h"
#include "io/safetensors_writer.h"

namespace diffusers {
namespace {

/// LibTorch's dtypes in the order of kSafetensorsDtypes. LibTorch has no six-bit dtypes.
constexpr std::array<at::ScalarType, kSafetensorsDtypes.size()> kScalarTypes{at::kBool,
                                                                             at::kFloat4_e2m1fn_x2,
                                                                             at::ScalarType::Undefined,
                                                                             at::ScalarType::Undefined,
                                                                             at::kByte,
                                                                             at::kChar,
                                                                             at::kFloat8_e5m2,
                                                                             at::kFloat8_e4m3fn,
                                                                             at::kFloat8_e8m0fnu,
                                                                             at::kFloat8_e4m3fnuz,
                                                                             at::kFloat8_e5m2fnuz,
                                                                             at::kShort,
                                                                             at::kUInt16,
                                                                             at::kHalf,
                                                                             at::kBFloat16,
                                                                             at::kInt,
                                                                             at::kUInt32,
                                                                             at::kFloat,
                                                                             at::kComplexFloat,
                                                                             at::kDouble,
                                                                             at::kLong,
                                                                             at::kUInt64};

constexpr std::size_t kNoDtype = kScalarTypes.size();

std::size_t dtype_index(at::ScalarType dtype) {
  if (dtype == at::ScalarType::Undefined) return kNoDtype;
  return static_cast<std::size_t>(std::find(kScalarTypes.begin(), kScalarTypes.end(), dtype) -
                                  kScalarTypes.begin());
}

/// Returns true for a packed dtype, in which LibTorch stores two four-bit numbers in an element of one byte.
constexpr bool is_packed(at::ScalarType dtype) { return dtype == at::kFloat4_e2m1fn_x2; }

SafetensorsInfo to_info(const SafetensorsEntry& entry, const std::string& path) {
  SafetensorsInfo info{kScalarTypes[entry.dtype], entry.shape, entry.end - entry.begin};
  require<FileError>(info.dtype != at::ScalarType::Undefined,
                     "{}: tensor {} has dtype {}, which LibTorch lacks", path, escaped(entry.name),
                     kSafetensorsDtypes[entry.dtype].name);
  if (is_packed(info.dtype)) {
    require<FileError>(!info.shape.empty() && info.shape.back() % 2 == 0,
                       "{}: the last dimension of tensor {} is odd, but {} holds two numbers in a byte", path,
                       escaped(entry.name), kSafetensorsDtypes[entry.dtype].name);
    info.shape.back() /= 2;
  }
  return info;
}

/// Advises the kernel to use pages of 2 MiB, with which new memory is filled more than twice as fast.
void prefer_huge_pages([[maybe_unused]] unsigned char* data, [[maybe_unused]] uint64_t count) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
  const auto address = reinterpret_cast<uintptr_t>(data);
  const uintptr_t skipped = (kHugePage - address % kHugePage) % kHugePage;
  if (count < skipped + kHugePage) return;
  ::madvise(data + skipped, (count - skipped) / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
}

/// Reads into newly allocated memory. Page faults take longer than copying from the page cache, so several
/// threads read a large tensor.
void read_into_fresh(const InputFile& file, unsigned char* out, uint64_t count, uint64_t offset) {
  constexpr uint64_t kShare = uint64_t{8} << 20;
  constexpr int kMostReaders = 4;
  prefer_huge_pages(out, count);
  const uint64_t readers =
      std::clamp<uint64_t>(count / kShare, 1, std::clamp(at::get_num_threads(), 1, kMostReaders));
  const auto read_part = [&](uint64_t i) {
    const uint64_t begin = count / readers * i;
    const uint64_t end = i + 1 == readers ? count : begin + count / readers;
    file.read(out + begin, end - begin, offset + begin);
  };
  std::vector<std::future<void>> others;
  for (uint64_t i = 1; i < readers; ++i) {
    try {
      others.push_back(std::async(std::launch::async, read_part, i));
    } catch (const std::system_error&) {
      read_part(i);  // the system cannot start more threads
    }
  }
  read_part(0);
  for (auto& other : others) other.get();
}

/// Returns the tensor as the file stores it: on the CPU, contiguous, without lazy conjugation.
at::Tensor plain(const at::Tensor& tensor) {
  return tensor.detach().resolve_conj().resolve_neg().cpu().contiguous();
}

void check_writable(const std::string& name, const at::Tensor& tensor) {
  require<TensorError>(name != "__metadata__", "a tensor cannot be named __metadata__ in a safetensors file");
  require<TensorError>(tensor.defined(), "tensor {} is undefined", escaped(name));
  require<TensorError>(tensor.layout() == at::kStrided && !tensor.is_meta() && !tensor.is_quantized(),
                       "tensor {} is sparse, quantized or without data: {}", escaped(name), describe(tensor));
  require<TensorError>(dtype_index(tensor.scalar_type()) != kNoDtype,
                       "tensor {} has dtype {}, which a safetensors file cannot hold", escaped(name),
                       dtype_name(tensor.scalar_type()));
}

std::string json_text(const std::string& text, std::string_view what) {
  try {
    return Json(text).dump();
  } catch (const Json::exception&) {
    fail<TensorError>("the {} {} is not valid UTF-8", what, escaped(text));
  }
}

}  // namespace

struct SafetensorsFile::State {
  explicit State(InputFile opened) : file(std::move(opened)) {
    try {
      read_header();
    } catch (const FileError&) {
      refuse_foreign_file();
      throw;
    }
  }

  void read_header() {
    const std::string& path = file.path();
    unsigned char prefix[kSafetensorsPrefix];
    require<FileError>(file.size() >= sizeof(prefix), "{}: {} bytes are too few for a safetensors file", path,
                       file.size());
    file.read(prefix, sizeof(prefix), 0);
    const uint64_t header_size = safetensors_header_size(prefix, file.size(), path);
    data_begin = kSafetensorsPrefix + header_size;
    SafetensorsHeader header;
    {
      std::string text(header_size, '\0');
      file.read(text.data(), text.size(), kSafetensorsPrefix);
      header = parse_safetensors_header(text, file.size() - data_begin, path);
    }
    metadata = std::move(header.metadata);
    names.reserve(header.entries.size());
    items.reserve(header.entries.size());
    places.reserve(header.entries.size());
    for (auto& entry : header.entries) {
      items.push_back({to_info(entry, path), entry.begin});
      names.push_back(std::move(entry.name));
      places.emplace(names.back(), items.size() - 1);
    }
  }

  /// Throws if the file is recognised as another kind of file.
  void refuse_foreign_file() const {
    constexpr uint64_t kLooked = 512;
    if (file.size() == 0) return;  // reported by the size check
    std::string start(std::min(file.size(), kLooked), '\0');
    file.read(start.data(), start.size(), 0);
    if (const auto meaning = describe_foreign_content(start))
      fail<FileError>("{}: expected a safetensors file: {}", file.path(), *meaning);
  }

  struct Item {
    SafetensorsInfo info;
    uint64_t begin = 0;
  };
  const Item& item(std::string_view name) const {
    const auto found = places.find(name);
    require<FileError>(found != places.end(), "{}: there is no tensor {} among {}", file.path(),
                       escaped(name), names.size());
    return items[found->second];
  }

  InputFile file;
  uint64_t data_begin = 0;
  std::map<std::string, std::string> metadata;
  std::vector<std::string> names;
  std::vector<Item> items;
  std::unordered_map<std::string_view, std::size_t> places;  // keys refer to `names`
};

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : SafetensorsFile(InputFile(path.native())) {}
SafetensorsFile::SafetensorsFile(InputFile file) : state_(std::make_unique<State>(std::move(file))) {}
SafetensorsFile::SafetensorsFile(SafetensorsFile&&) noexcept = default;
SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&&) noexcept = default;
SafetensorsFile::~SafetensorsFile() = default;

const std::string& SafetensorsFile::path() const { return state_->file.path(); }
const std::vector<std::string>& SafetensorsFile::names() const { return state_->names; }
const std::map<std::string, std::string>& SafetensorsFile::metadata() const { return state_->metadata; }
bool SafetensorsFile::contains(std::string_view name) const { return state_->places.contains(name); }
const SafetensorsInfo& SafetensorsFile::info(std::string_view name) const { return state_->item(name).info; }

at::Tensor SafetensorsFile::get(std::string_view name, at::Device device,
                                std::optional<at::ScalarType> dtype) const {
  const auto& [info, begin] = state_->item(name);
  at::Tensor tensor;
  try {
    tensor = at::empty(info.shape, at::TensorOptions().dtype(info.dtype));
  } catch (const c10::Error& error) {
    fail<FileError>("{}: cannot make tensor {} of shape {}: {}", path(), escaped(name),
                    shape_string(info.shape), error.what_without_backtrace());
  }
  auto* bytes = static_cast<unsigned char*>(tensor.data_ptr());
  read_into_fresh(state_->file, bytes, info.nbytes, state_->data_begin + begin);
  // A bool byte other than 0 and 1 is undefined behaviour, so every non-zero byte becomes 1.
  if (info.dtype == at::kBool)
    std::transform(bytes, bytes + info.nbytes, bytes, [](auto byte) { return byte != 0; });
  const bool is_converted = dtype && at::isFloatingType(info.dtype) && !is_packed(info.dtype);
  try {
    return tensor.to(device, is_converted ? *dtype : info.dtype);
  } catch (const c10::Error& error) {
    fail("{}: cannot put tensor {} on {}: {}", path(), escaped(name), device.str(),
         error.what_without_backtrace());
  }
}

TensorMap load_safetensors(const std::filesystem::path& path, const LoadSafetensorsOptions& options) {
  const SafetensorsFile file(path);
  TensorMap tensors;
  for (const auto& name : file.names()) tensors.insert(name, file.get(name, options.device, options.dtype));
  return tensors;
}

void save_safetensors(const TensorMap& tensors, const std::filesystem::path& path,
                      const std::map<std::string, std::string>& metadata) {
  AtomicFile file(path.native());
  write_safetensors(tensors, file, metadata);
  file.commit();
}

void internal::write_safetensors(const TensorMap& tensors, AtomicFile& file,
                                 const std::map<std::string, std::string>& metadata) {
  std::vector<const TensorMap::value_type*> items;
  for (const auto& item : tensors) {
    check_writable(item.first, item.second);
    items.push_back(&item);
  }
  // The reference implementation sorts by dtype, widest first, which keeps every tensor aligned, then by
  // name.
  std::sort(items.begin(), items.end(), [](const auto* left, const auto* right) {
    const auto left_dtype = dtype_index(left->second.scalar_type());
    const auto right_dtype = dtype_index(right->second.scalar_type());
    return left_dtype != right_dtype ? left_dtype > right_dtype : left->first < right->first;
  });

  std::string header = "{";
  if (!metadata.empty()) {
    header += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata)
      header += fmt::format("{}{}:{}", header.back() == '{' ? "" : ",", json_text(key, "metadata key"),
                            json_text(value, "metadata value"));
    header += "}";
  }
  uint64_t offset = 0;
  for (const auto* item : items) {
    const auto& [name, tensor] = *item;
    std::vector<int64_t> shape = tensor.sizes().vec();
    if (is_packed(tensor.scalar_type())) {
      require<TensorError>(!shape.empty(), "tensor {} has packed four-bit numbers but no dimension",
                           escaped(name));
      shape.back() *= 2;
    }
    header += fmt::format("{}{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                          header.size() == 1 ? "" : ",", json_text(name, "tensor name"),
                          kSafetensorsDtypes[dtype_index(tensor.scalar_type())].name, fmt::join(shape, ","),
                          offset, offset + tensor.nbytes());
    offset += tensor.nbytes();
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  require<FileError>(header.size() <= kSafetensorsMaxHeader,
                     "{}: the header takes {} bytes, the format allows {}", file.path(), header.size(),
                     kSafetensorsMaxHeader);

  unsigned char prefix[kSafetensorsPrefix];
  for (std::size_t i = 0; i < kSafetensorsPrefix; ++i)
    prefix[i] = static_cast<unsigned char>(uint64_t{header.size()} >> (8 * i));
  file.write(prefix, sizeof(prefix));
  file.write(header);
  for (const auto* item : items) {
    const at::Tensor tensor = plain(item->second);
    file.write(tensor.const_data_ptr(), tensor.nbytes());
  }
}

}  // namespace diffusers

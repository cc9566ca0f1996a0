#include "data/idx_reader.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <limits>
#include <optional>

#include <zlib.h>

#include "core/foreign_content.h"
#include "core/require.h"

namespace diffusers {
inline namespace internal {
namespace {

/// Highest compression ratio of deflate.
constexpr uint64_t kGzipLimit = 1032;
constexpr std::size_t kMostIdxDimensions = 8;
constexpr std::size_t kGrowth = std::size_t{1} << 20;

/// The bytes of a file, raw or unpacked, from front to back.
class IdxSource {
 public:
  IdxSource(std::string_view file, std::string_view where) : file_(file), where_(where) {
    is_gzip_ = file.starts_with("\x1f\x8b");
    if (!is_gzip_) return;
    // 16: gzip format only
    require<FileError>(::inflateInit2(&stream_, 16 + MAX_WBITS) == Z_OK, "{}: cannot start zlib", where);
  }
  IdxSource(const IdxSource&) = delete;
  IdxSource& operator=(const IdxSource&) = delete;
  ~IdxSource() {
    if (is_gzip_) ::inflateEnd(&stream_);
  }

  /// Returns an upper limit for the number of unpacked bytes.
  uint64_t most_bytes() const { return is_gzip_ ? file_.size() * kGzipLimit : file_.size(); }

  /// Reads up to `count` bytes.
  /// @return bytes written
  std::size_t read(char* out, std::size_t count) {
    std::size_t total = 0;
    while (total < count) {
      const std::size_t got =
          is_gzip_ ? unpack(out + total, count - total) : copy(out + total, count - total);
      if (got == 0) break;
      total += got;
    }
    return total;
  }

 private:
  std::size_t copy(char* out, std::size_t count) {
    count = std::min(count, file_.size() - position_);
    std::memcpy(out, file_.data() + position_, count);
    position_ += count;
    return count;
  }

  std::size_t unpack(char* out, std::size_t count) {
    constexpr std::size_t kChunk = std::size_t{1} << 30;
    while (!is_finished_) {
      const std::size_t input = std::min(file_.size() - position_, kChunk);
      const std::size_t room = std::min(count, kChunk);
      stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(file_.data() + position_));
      stream_.avail_in = static_cast<uInt>(input);
      stream_.next_out = reinterpret_cast<Bytef*>(out);
      stream_.avail_out = static_cast<uInt>(room);
      const int status = ::inflate(&stream_, Z_NO_FLUSH);
      const std::size_t used = input - stream_.avail_in;
      const std::size_t got = room - stream_.avail_out;
      position_ += used;
      if (status == Z_STREAM_END) {
        start_next_member();
      } else {
        require<FileError>(status == Z_OK || status == Z_BUF_ERROR,
                           "{}: the gzip data are damaged near byte {}: {}", where_, position_,
                           std::string(stream_.msg != nullptr ? stream_.msg : "wrong code"));
        require<FileError>(got > 0 || used > 0, "{}: the gzip data end early, after {} bytes", where_,
                           file_.size());
      }
      if (got > 0) return got;
    }
    return 0;
  }

  /// Starts the next gzip member. gzip files may be concatenated and padded with zeros.
  void start_next_member() {
    while (position_ < file_.size() && file_[position_] == '\0') ++position_;
    if (position_ == file_.size()) {
      is_finished_ = true;
      return;
    }
    require<FileError>(file_.substr(position_).starts_with("\x1f\x8b"), "{}: {} bytes behind the gzip data",
                       where_, file_.size() - position_);
    require<FileError>(::inflateReset(&stream_) == Z_OK, "{}: cannot restart zlib", where_);
  }

  std::string_view file_;
  std::string_view where_;
  std::size_t position_ = 0;
  bool is_gzip_ = false;
  bool is_finished_ = false;
  z_stream stream_{};
};

std::size_t idx_element_size(unsigned code) {
  switch (static_cast<IdxType>(code)) {
    case IdxType::kUint8:
    case IdxType::kInt8:
      return 1;
    case IdxType::kInt16:
      return 2;
    case IdxType::kInt32:
    case IdxType::kFloat32:
      return 4;
    case IdxType::kFloat64:
      return 8;
  }
  return 0;
}

}  // namespace

IdxData parse_idx(std::string_view file, std::string_view where) {
  IdxSource source(file, where);
  unsigned char magic[4];
  const std::size_t found = source.read(reinterpret_cast<char*>(magic), sizeof(magic));
  require<FileError>(found == sizeof(magic),
                     "{}: the file ends after {} of the 4 bytes of the IDX magic number", where, found);
  const std::size_t element = idx_element_size(magic[2]);
  if (magic[0] != 0 || magic[1] != 0)
    if (const auto meaning = describe_foreign_content(file))
      fail<FileError>("{}: expected an IDX file: {}", where, *meaning);
  require<FileError>(
      magic[0] == 0 && magic[1] == 0 && element != 0,
      "{}: the magic number is {:02x}{:02x}{:02x}{:02x}, not that of an IDX file (0000 08|09|0b|0c|0d|0e and "
      "the number of dimensions)",
      where, magic[0], magic[1], magic[2], magic[3]);
  const std::size_t rank = magic[3];
  require<FileError>(rank >= 1 && rank <= kMostIdxDimensions, "{}: {} dimensions, expected 1 to {}", where,
                     rank, kMostIdxDimensions);

  IdxData data;
  data.type = static_cast<IdxType>(magic[2]);
  uint64_t size = element;
  bool overflow = false;
  for (std::size_t i = 0; i < rank; ++i) {
    unsigned char field[4];
    require<FileError>(source.read(reinterpret_cast<char*>(field), sizeof(field)) == sizeof(field),
                       "{}: the file ends within the sizes of its {} dimensions", where, rank);
    const uint64_t length =
        uint64_t{field[0]} << 24 | uint64_t{field[1]} << 16 | uint64_t{field[2]} << 8 | field[3];
    overflow |= __builtin_mul_overflow(size, length, &size);
    data.shape.push_back(static_cast<int64_t>(length));
  }
  require<FileError>(!overflow && size <= source.most_bytes(),
                     "{}: {} elements of {} bytes cannot come from a file of {} bytes", where,
                     fmt::join(data.shape, " x "), element, file.size());

  // The buffer grows with the data that is read, so a header that declares too much allocates nothing.
  std::size_t have = 0;
  while (have < size + 1) {
    const std::size_t want = std::min<std::size_t>(size + 1 - have, std::max(kGrowth, have));
    data.bytes.resize(have + want);
    const std::size_t got = source.read(data.bytes.data() + have, want);
    have += got;
    if (got < want) break;
  }
  require<FileError>(have >= size, "{}: {} elements of {} bytes take {} bytes, the file holds {}", where,
                     fmt::join(data.shape, " x "), element, size, have);
  require<FileError>(have == size, "{}: there are bytes behind the {} elements", where,
                     fmt::join(data.shape, " x "));
  data.bytes.resize(size);

  // IDX is big-endian.
  if (element > 1)
    for (std::size_t i = 0; i < data.bytes.size(); i += element)
      std::reverse(data.bytes.begin() + static_cast<std::ptrdiff_t>(i),
                   data.bytes.begin() + static_cast<std::ptrdiff_t>(i + element));
  return data;
}

}  // namespace internal
}  // namespace diffusers

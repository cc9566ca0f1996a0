#include "training/observe/record_file.h"

#include <array>
#include <cerrno>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include "core/require.h"

namespace diffusers {
inline namespace internal {
namespace {

constexpr std::array<uint32_t, 256> make_crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ ((crc & 1) != 0 ? 0x82f63b78U : 0U);
    table[byte] = crc;
  }
  return table;
}

constexpr std::array<uint32_t, 256> kCrcTable = make_crc_table();

uint32_t masked_crc(std::string_view bytes) {
  const uint32_t crc = crc32c(bytes);
  return (crc >> 15 | crc << 17) + 0xa282ead8U;
}

void append_little_endian(std::string& bytes, uint64_t value, int count) {
  for (int i = 0; i < count; ++i) bytes += static_cast<char>(value >> (8 * i));
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t crc = 0xffffffffU;
  for (const char byte : bytes) crc = kCrcTable[(crc ^ static_cast<unsigned char>(byte)) & 0xff] ^ crc >> 8;
  return ~crc;
}

std::string framed_record(std::string_view data) {
  std::string record;
  record.reserve(data.size() + 16);
  append_little_endian(record, data.size(), 8);
  append_little_endian(record, masked_crc(record), 4);
  record += data;
  append_little_endian(record, masked_crc(data), 4);
  return record;
}

RecordFile::RecordFile(std::string path) : path_(std::move(path)) {
  int fd = -1;
  do {
    fd = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (fd < 0 && errno == EINTR);
  require<FileError>(fd >= 0, "cannot create {}: {}", escaped(path_), errno_text(errno));
  file_ = FileDescriptor(fd);
}

void RecordFile::append(std::string_view data) {
  require<FileError>(file_.get() >= 0, "cannot write to {}: the file was closed after an earlier error",
                     escaped(path_));
  const std::string record = framed_record(data);
  std::size_t written = 0;
  while (written < record.size()) {
    const ssize_t count = ::write(file_.get(), record.data() + written, record.size() - written);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      const int error = errno;
      // A reader stops at an incomplete record, so no record may follow it.
      const auto end = static_cast<off_t>(size_);
      if (::ftruncate(file_.get(), end) != 0 || ::lseek(file_.get(), end, SEEK_SET) != end) file_.reset();
      fail<FileError>("cannot write to {}: {}", escaped(path_), errno_text(error));
    }
    written += static_cast<std::size_t>(count);
  }
  size_ += record.size();
}

void RecordFile::sync() {
  require<FileError>(file_.get() >= 0, "cannot write to {}: the file was closed after an earlier error",
                     escaped(path_));
  int result = -1;
  do {
    result = ::fsync(file_.get());
  } while (result != 0 && errno == EINTR);
  require<FileError>(result == 0, "cannot sync {}: {}", escaped(path_), errno_text(errno));
}

}  // namespace internal
}  // namespace diffusers

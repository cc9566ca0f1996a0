#pragma once

// Files of records, each framed by its length and checksums, as TensorFlow's TFRecord files are: what a crash
// left of a last record is noticed, and the ones before it stay readable.

#include <cstdint>
#include <string>
#include <string_view>

#include "io/posix_file.h"

namespace diffusers {
inline namespace internal {

/// CRC-32C (Castagnoli), the checksum of iSCSI (RFC 3720).
uint32_t crc32c(std::string_view bytes);

/// The bytes of a record in a file: its length (8 bytes, little-endian), the checksum of that, the data, its
/// checksum. The checksums are rotated and shifted, as those of data that holds checksums have to be.
std::string framed_record(std::string_view data);

/// A new file that records are appended to, one system call each.
class RecordFile {
 public:
  /// @throws FileError if the file exists or cannot be created
  explicit RecordFile(std::string path);

  const std::string& path() const { return path_; }
  /// Where this fails, the file ends with the record before.
  /// @throws FileError naming the path and the system's reason
  void append(std::string_view data);
  /// Brings what was appended to the disk. @throws FileError
  void sync();

 private:
  std::string path_;
  FileDescriptor file_;
  uint64_t size_ = 0;  // of the whole records
};

}  // namespace internal
}  // namespace diffusers

#pragma once

// Files of records with lengths and checksums, in the format of TensorFlow's TFRecord files. A reader detects
// a last record that a crash truncated, and earlier records stay readable.

#include <cstdint>
#include <string>
#include <string_view>

#include "io/posix_file.h"

namespace diffusers {
inline namespace internal {

/// Computes CRC-32C (Castagnoli), the checksum of iSCSI (RFC 3720).
uint32_t crc32c(std::string_view bytes);

/// Returns the bytes of a record: the length (8 bytes, little-endian), the checksum of the length, the data,
/// and the checksum of the data. The format masks the checksums by a rotation and an addition.
std::string framed_record(std::string_view data);

/// A new file to which records are appended, with one system call for each record.
class RecordFile {
 public:
  /// @throws FileError if the file exists or cannot be created
  explicit RecordFile(std::string path);

  const std::string& path() const { return path_; }
  /// Appends a record. If this fails, the file ends with the previous record.
  /// @throws FileError naming the path and the system's reason
  void append(std::string_view data);
  /// Syncs the file to the disk.
  /// @throws FileError naming the path and the system's reason
  void sync();

 private:
  std::string path_;
  FileDescriptor file_;
  uint64_t size_ = 0;  // size of the complete records
};

}  // namespace internal
}  // namespace diffusers

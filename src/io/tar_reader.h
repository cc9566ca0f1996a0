#pragma once

// Reads tar archives by libarchive, plain or gzip-compressed, from front to back. Archives are not trusted.
// The header does not use LibTorch, so that a fuzz target can link it alone.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace diffusers {
inline namespace internal {

/// A regular file in an archive.
struct TarMember {
  std::string name;     ///< path in the archive, without a leading "./"
  uint64_t size = 0;    ///< bytes that its header announces
  uint64_t offset = 0;  ///< position of its data in the archive before compression
};

/// Reads the members of an archive one after another. Memory for a member grows with the data that is read,
/// whatever size its header announces.
class TarReader {
 public:
  /// Opens a file.
  /// @throws FileError if it is missing or not a regular file
  explicit TarReader(const std::string& path);
  /// Reads an archive in memory.
  /// @param bytes the archive; must outlive the reader
  /// @param where name for error messages
  TarReader(std::string_view bytes, std::string where);
  TarReader(TarReader&&) noexcept;
  TarReader& operator=(TarReader&&) noexcept;
  ~TarReader();

  const std::string& path() const;
  /// Moves to the next regular file. Folders are skipped, and so is data that was not read.
  /// @return nullopt at the end of the archive, and at each later call
  /// @throws FileError naming the archive and the member for a damaged or truncated archive (the two blocks
  /// of
  ///   zeros at the end must be there), for a link, a device or another special file, for a sparse file, and
  ///   for a name that is absolute or contains ".."
  std::optional<TarMember> next();
  /// Reads the data of the member that `next` returned last. May be called once for each member.
  /// @param max_bytes largest size; a larger member is an error before its data is read
  /// @throws FileError naming the archive and the member if it is too large or ends early
  std::string read(std::size_t max_bytes);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace internal
}  // namespace diffusers

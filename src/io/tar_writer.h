#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace diffusers {
inline namespace internal {

/// Writes a tar archive by libarchive. The file appears complete with `commit`, or not at all. Equal members
/// give equal bytes.
class TarWriter {
 public:
  explicit TarWriter(const std::string& path);
  TarWriter(const TarWriter&) = delete;
  TarWriter& operator=(const TarWriter&) = delete;
  ~TarWriter();

  /// Writes a regular file.
  /// @param name relative path, in ASCII
  /// @throws FileError if the archive cannot be written
  void add(const std::string& name, std::string_view data);
  /// Syncs the archive to disk and gives it its name.
  /// @throws FileError if the archive cannot be written
  void commit();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace internal
}  // namespace diffusers

#include "io/tar_writer.h"

#include <cerrno>
#include <exception>

#include <archive.h>
#include <archive_entry.h>

#include "core/require.h"
#include "io/posix_file.h"

namespace diffusers {
inline namespace internal {

struct TarWriter::State {
  struct Free {
    void operator()(archive* open) const { ::archive_write_free(open); }
  };

  explicit State(const std::string& path) : file(path), writer(::archive_write_new()) {
    require(writer != nullptr, "{}: libarchive cannot be started", path);
    check(::archive_write_set_format_pax_restricted(writer.get()));
    check(::archive_write_set_bytes_in_last_block(writer.get(), 1));
    check(::archive_write_open(writer.get(), this, nullptr, write_block, nullptr));
  }

  // Exceptions may not pass through libarchive.
  static la_ssize_t write_block(archive* open, void* data, const void* block, std::size_t count) {
    auto& state = *static_cast<State*>(data);
    // archive_write_free writes the end of an archive that is given up.
    if (state.error) return static_cast<la_ssize_t>(count);
    try {
      state.file.write(block, count);
    } catch (...) {
      state.error = std::current_exception();
      ::archive_set_error(open, EIO, "write error");
      return ARCHIVE_FATAL;
    }
    return static_cast<la_ssize_t>(count);
  }

  void check(int64_t status) const {
    if (error) std::rethrow_exception(error);
    if (status >= ARCHIVE_OK) return;
    const char* text = ::archive_error_string(writer.get());
    fail<FileError>("{}: cannot be written: {}", file.path(), text == nullptr ? "unknown error" : text);
  }

  AtomicFile file;
  std::exception_ptr error;
  std::unique_ptr<archive, Free> writer;  // is closed before what its callback uses
};

TarWriter::TarWriter(const std::string& path) : state_(std::make_unique<State>(path)) {}
TarWriter::~TarWriter() = default;

void TarWriter::add(const std::string& name, std::string_view data) {
  State& state = *state_;
  const std::unique_ptr<archive_entry, void (*)(archive_entry*)> entry(::archive_entry_new(),
                                                                       ::archive_entry_free);
  require(entry != nullptr, "{}: no memory for a member", state.file.path());
  ::archive_entry_set_pathname(entry.get(), name.c_str());
  ::archive_entry_set_size(entry.get(), static_cast<la_int64_t>(data.size()));
  ::archive_entry_set_filetype(entry.get(), AE_IFREG);
  ::archive_entry_set_perm(entry.get(), 0644);
  ::archive_entry_set_mtime(entry.get(), 0, 0);
  state.check(::archive_write_header(state.writer.get(), entry.get()));
  const la_ssize_t written =
      data.empty() ? 0 : ::archive_write_data(state.writer.get(), data.data(), data.size());
  state.check(written);
  require<FileError>(static_cast<std::size_t>(written) == data.size(),
                     "{}: {} of {} bytes of member {} were written", state.file.path(), written, data.size(),
                     escaped(name));
}

void TarWriter::commit() {
  State& state = *state_;
  state.check(::archive_write_close(state.writer.get()));
  state.file.commit();
}

}  // namespace internal
}  // namespace diffusers

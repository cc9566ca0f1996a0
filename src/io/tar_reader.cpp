#include "io/tar_reader.h"

#include <algorithm>
#include <exception>
#include <utility>
#include <vector>

#include <archive.h>
#include <archive_entry.h>

#include "core/foreign_content.h"
#include "core/require.h"
#include "io/posix_file.h"

namespace diffusers {
inline namespace internal {
namespace {

constexpr std::size_t kTarChunk = std::size_t{64} << 10;
constexpr std::size_t kTarPrefix = 512;

/// Returns the kind of a member that is no regular file.
const char* kind_of_member(archive_entry* entry) {
  if (::archive_entry_hardlink(entry) != nullptr) return "a hard link";
  switch (::archive_entry_filetype(entry)) {
    case AE_IFLNK:
      return "a symbolic link";
    case AE_IFCHR:
    case AE_IFBLK:
      return "a device";
    case AE_IFIFO:
      return "a named pipe";
    case AE_IFSOCK:
      return "a socket";
    default:
      return "of an unknown type";
  }
}

std::string name_of_member(archive_entry* entry) {
  const char* name = ::archive_entry_pathname_utf8(entry);
  if (name == nullptr) name = ::archive_entry_pathname(entry);
  return name == nullptr ? "" : name;
}

/// Removes each leading "./".
std::string_view without_dots(std::string_view name) {
  while (name.starts_with("./")) {
    name.remove_prefix(2);
    while (name.starts_with('/')) name.remove_prefix(1);
  }
  return name;
}

bool has_parent_folder(std::string_view name) {
  while (true) {
    const auto slash = name.find('/');
    if (name.substr(0, slash) == "..") return true;
    if (slash == std::string_view::npos) return false;
    name.remove_prefix(slash + 1);
  }
}

}  // namespace

struct TarReader::State {
  struct Free {
    void operator()(archive* open) const { ::archive_read_free(open); }
  };

  explicit State(std::string where) : path(std::move(where)), reader(::archive_read_new()) {
    require(reader != nullptr, "{}: libarchive cannot be started", path);
    // Without zlib libarchive would start the program gzip.
    require(::archive_read_support_format_tar(reader.get()) == ARCHIVE_OK &&
                ::archive_read_support_filter_gzip(reader.get()) == ARCHIVE_OK,
            "{}: this libarchive reads no gzip-compressed tar archives", path);
  }

  // Exceptions may not pass through libarchive.
  static la_ssize_t read_block(archive* /*reader*/, void* data, const void** block) {
    auto& state = *static_cast<State*>(data);
    const uint64_t left = state.file->size() - state.position;
    const auto count = static_cast<std::size_t>(std::min<uint64_t>(left, state.buffer.size()));
    try {
      if (count > 0) state.file->read(state.buffer.data(), count, state.position);
    } catch (...) {
      state.error = std::current_exception();
      return ARCHIVE_FATAL;
    }
    state.position += count;
    *block = state.buffer.data();
    return static_cast<la_ssize_t>(count);
  }

  static la_int64_t skip_bytes(archive* /*reader*/, void* data, la_int64_t count) {
    auto& state = *static_cast<State*>(data);
    if (count <= 0) return 0;
    const uint64_t skipped =
        std::min<uint64_t>(state.file->size() - state.position, static_cast<uint64_t>(count));
    state.position += skipped;
    return static_cast<la_int64_t>(skipped);
  }

  /// Returns the name of the archive, and of the member that was read last.
  std::string place() const {
    if (member.name.empty()) return path;
    return fmt::format("{}: {} member {}", path, is_in_member ? "in" : "behind", escaped(member.name));
  }

  [[noreturn]] void fail_here() const {
    if (error) std::rethrow_exception(error);
    const char* text = ::archive_error_string(reader.get());
    std::string reason = text == nullptr ? "unknown error" : text;
    if (member.name.empty())
      if (const auto meaning = describe_foreign_content(prefix)) reason = *meaning;
    fail<FileError>("{}: expected a complete tar archive, plain or gzip-compressed: {}", place(), reason);
  }

  std::string path;
  std::optional<InputFile> file;  // empty for an archive in memory
  std::vector<char> buffer;
  uint64_t position = 0;  // in the file
  std::string prefix;     // first bytes of the archive
  std::exception_ptr error;
  TarMember member;
  bool is_in_member = false;
  bool is_at_end = false;
  std::unique_ptr<archive, Free> reader;  // is closed before what its callbacks use
};

TarReader::TarReader(const std::string& path) : state_(std::make_unique<State>(path)) {
  State& state = *state_;
  state.file.emplace(path);
  state.buffer.resize(kTarChunk);
  state.prefix.resize(static_cast<std::size_t>(std::min<uint64_t>(kTarPrefix, state.file->size())));
  state.file->read(state.prefix.data(), state.prefix.size(), 0);
  archive* reader = state.reader.get();
  ::archive_read_set_callback_data(reader, &state);
  ::archive_read_set_read_callback(reader, State::read_block);
  ::archive_read_set_skip_callback(reader, State::skip_bytes);
  if (::archive_read_open1(reader) != ARCHIVE_OK) state.fail_here();
}

TarReader::TarReader(std::string_view bytes, std::string where)
    : state_(std::make_unique<State>(std::move(where))) {
  state_->prefix = bytes.substr(0, kTarPrefix);
  if (::archive_read_open_memory(state_->reader.get(), bytes.data(), bytes.size()) != ARCHIVE_OK)
    state_->fail_here();
}

TarReader::TarReader(TarReader&&) noexcept = default;
TarReader& TarReader::operator=(TarReader&&) noexcept = default;
TarReader::~TarReader() = default;

const std::string& TarReader::path() const { return state_->path; }

std::optional<TarMember> TarReader::next() {
  State& state = *state_;
  archive* reader = state.reader.get();
  while (!state.is_at_end) {
    archive_entry* entry = nullptr;
    state.is_in_member = false;
    const int status = ::archive_read_next_header(reader, &entry);
    if (status == ARCHIVE_EOF) {
      state.is_at_end = true;
      // libarchive also accepts an archive without the blocks of zeros, such as one that was cut there.
      require<FileError>(::archive_filter_bytes(reader, 0) > ::archive_read_header_position(reader),
                         "{}: the archive ends without its end mark, two blocks of zeros; it is truncated",
                         state.place());
      break;
    }
    // A warning is about a name that the locale does not have, or about an attribute that is not used.
    if (status != ARCHIVE_OK && status != ARCHIVE_WARN) state.fail_here();
    const std::string name = name_of_member(entry);
    state.member = {.name = std::string(without_dots(name)),
                    .size = 0,
                    .offset = static_cast<uint64_t>(::archive_filter_bytes(reader, 0))};
    state.is_in_member = true;
    const bool is_folder = ::archive_entry_filetype(entry) == AE_IFDIR;
    require<FileError>(
        is_folder ||
            (::archive_entry_filetype(entry) == AE_IFREG && ::archive_entry_hardlink(entry) == nullptr),
        "{}: member {} is {}, expected a regular file", state.path, escaped(name), kind_of_member(entry));
    require<FileError>(
        !name.empty() && !name.starts_with('/') && !has_parent_folder(name),
        "{}: member {} has a name that leads out of the archive, expected a relative path without ..",
        state.path, escaped(name));
    if (is_folder) continue;
    require<FileError>(::archive_entry_sparse_reset(entry) == 0,
                       "{}: member {} is sparse, expected a plain file", state.path, escaped(name));
    require<FileError>(::archive_entry_size(entry) >= 0, "{}: member {} has no size", state.path,
                       escaped(name));
    state.member.size = static_cast<uint64_t>(::archive_entry_size(entry));
    return state.member;
  }
  return std::nullopt;
}

std::string TarReader::read(std::size_t max_bytes) {
  State& state = *state_;
  const uint64_t size = state.member.size;
  require<FileError>(size <= max_bytes, "{}: member {} has {} bytes, expected at most {}", state.path,
                     escaped(state.member.name), size, max_bytes);
  std::string data;
  std::size_t have = 0;
  while (have < size) {
    data.resize(have + static_cast<std::size_t>(std::min<uint64_t>(size - have, std::max(kTarChunk, have))));
    const la_ssize_t got = ::archive_read_data(state.reader.get(), data.data() + have, data.size() - have);
    if (got < 0) state.fail_here();
    require<FileError>(got > 0, "{}: member {} ends after {} of {} bytes", state.path,
                       escaped(state.member.name), have, size);
    have += static_cast<std::size_t>(got);
  }
  data.resize(have);
  return data;
}

}  // namespace internal
}  // namespace diffusers

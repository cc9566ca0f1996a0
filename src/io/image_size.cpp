#include "io/image_size.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

#include "core/foreign_content.h"
#include "core/require.h"
#include "io/exif.h"

namespace diffusers {
inline namespace internal {
namespace {

constexpr std::size_t kMostExif = std::size_t{1} << 16;
/// Largest number of bytes between the segments of a JPEG file.
constexpr int kMostGap = 1 << 16;

/// The bytes of a file at a moving position.
class ImageBytes {
 public:
  explicit ImageBytes(const InputFile& file) : file_(file) {}

  /// Reads at most `count` bytes from the position, without moving it.
  std::string peek(uint64_t count) const {
    if (position_ >= file_.size()) return {};
    std::string bytes(static_cast<std::size_t>(std::min(count, file_.size() - position_)), '\0');
    file_.read(bytes.data(), bytes.size(), position_);
    return bytes;
  }
  void move(uint64_t count) { position_ = count > UINT64_MAX - position_ ? UINT64_MAX : position_ + count; }

 private:
  const InputFile& file_;
  uint64_t position_ = 0;
};

int64_t big_number(std::string_view bytes, std::size_t at, std::size_t count) {
  return exif_number(bytes, at, count, /*is_big=*/true).value_or(0);
}

/// A size and the EXIF orientation.
struct FoundSize {
  StoredImageSize size;
  int orientation = 1;
};

FoundSize png_size(ImageBytes bytes) {
  FoundSize found;
  bytes.move(8);
  while (true) {
    const std::string head = bytes.peek(16);
    if (head.size() < 12) return found;
    const int64_t length = big_number(head, 0, 4);
    const std::string_view kind = std::string_view(head).substr(4, 4);
    if (kind == "IEND") return found;
    if (kind == "IHDR") found.size = {.height = big_number(head, 12, 4), .width = big_number(head, 8, 4)};
    bytes.move(8);
    if (kind == "eXIf")
      found.orientation =
          exif_orientation(bytes.peek(std::min<uint64_t>(kMostExif, static_cast<uint64_t>(length))));
    bytes.move(static_cast<uint64_t>(length) + 4);
  }
}

FoundSize jpeg_size(ImageBytes bytes) {
  constexpr std::string_view kMark("Exif\0\0", 6);
  FoundSize found;
  int gap = 0;
  bytes.move(2);
  while (true) {
    const std::string head = bytes.peek(9);
    if (head.size() < 4 || gap > kMostGap) return found;
    const auto mark = static_cast<unsigned char>(head[1]);
    // Bytes before a marker are skipped, as libjpeg does.
    if (head[0] != '\xff' || mark == 0xff || mark == 0) {
      bytes.move(1);
      ++gap;
      continue;
    }
    bytes.move(2);
    if (mark == 0xd9 || mark == 0xda) return found;                // end of the image, start of the pixels
    if (mark == 0x01 || (mark >= 0xd0 && mark <= 0xd8)) continue;  // without a length
    const auto length = static_cast<uint64_t>(big_number(head, 2, 2));
    const bool is_frame = mark >= 0xc0 && mark <= 0xcf && mark != 0xc4 && mark != 0xc8 && mark != 0xcc;
    if (is_frame && head.size() == 9) {
      found.size = {.height = big_number(head, 5, 2), .width = big_number(head, 7, 2)};
      return found;
    }
    if (mark == 0xe1 && found.orientation == 1) {
      const std::string segment = bytes.peek(length);
      if (std::string_view(segment).substr(std::min<std::size_t>(2, segment.size())).starts_with(kMark))
        found.orientation = exif_orientation(std::string_view(segment).substr(2 + kMark.size()));
    }
    bytes.move(std::max<uint64_t>(length, 2));
  }
}

}  // namespace

StoredImageSize read_image_size(const InputFile& file) {
  const ImageBytes bytes(file);
  const std::string first = bytes.peek(512);
  const bool is_png = first.starts_with("\x89PNG\r\n\x1a\n");
  if (!is_png && !first.starts_with("\xff\xd8\xff")) {
    const auto meaning = describe_foreign_content(first);
    fail<FileError>("{}: expected a PNG or JPEG image{}", file.path(), meaning ? ": " + *meaning : "");
  }
  FoundSize found = is_png ? png_size(bytes) : jpeg_size(bytes);
  const auto is_valid = [](int64_t side) { return side >= 1 && side <= INT32_MAX; };
  require<FileError>(is_valid(found.size.height) && is_valid(found.size.width),
                     "{}: the {} file has no valid size: {} x {} pixels", file.path(),
                     is_png ? "PNG" : "JPEG", found.size.width, found.size.height);
  // These orientations exchange rows and columns.
  if (found.orientation >= 5) std::swap(found.size.height, found.size.width);
  return found.size;
}

}  // namespace internal
}  // namespace diffusers

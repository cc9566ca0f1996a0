#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstring>

#include <png.h>

#include "core/foreign_content.h"
#include "core/require.h"
#include "io/exif.h"
#include "io/image_codec.h"
#include "io/posix_file.h"

namespace diffusers {
namespace {

/// Highest compression ratio of deflate. A header that declares more pixels than this ratio allows is
/// invalid.
constexpr int64_t kDeflateLimit = 1032;

/// Bytes that a chunk may always unpack to, for any size of the file.
constexpr png_alloc_size_t kSmallChunk = 8'000'000;

struct PngSource {
  std::string_view bytes;
  std::size_t position = 0;
};

struct PngError {
  char text[256] = "unknown error";
};

/// libpng reports errors by longjmp. The frames that it skips must not have objects with destructors.
[[noreturn]] void on_png_error(png_structp png, png_const_charp message) {
  auto* error = static_cast<PngError*>(png_get_error_ptr(png));
  std::snprintf(error->text, sizeof(error->text), "%s", message);
  std::longjmp(png_jmpbuf(png), 1);
}

void on_png_warning(png_structp, png_const_charp) {}

void read_png_bytes(png_structp png, png_bytep out, std::size_t count) {
  auto* source = static_cast<PngSource*>(png_get_io_ptr(png));
  if (count > source->bytes.size() - source->position) png_error(png, "the file ends early");
  std::memcpy(out, source->bytes.data() + source->position, count);
  source->position += count;
}

void write_png_bytes(png_structp png, png_bytep data, std::size_t count) {
  auto* out = static_cast<std::string*>(png_get_io_ptr(png));
  try {
    out->append(reinterpret_cast<const char*>(data), count);
    return;
  } catch (const std::bad_alloc&) {
  }
  png_error(png, "out of memory");
}

[[noreturn]] void refuse_png(png_structp png, const char* format, long long first, long long second,
                             long long third) {
  char text[160];
  std::snprintf(text, sizeof(text), format, first, second, third);
  png_error(png, text);
}

struct PngReading {
  PngSource source;
  RawImage image;
  std::vector<png_bytep> rows;
};

/// Reads the image. It leaves by longjmp on an error.
void read_png_steps(png_structp png, png_infop info, PngReading& reading) {
  RawImage& image = reading.image;
  const auto file_size = static_cast<long long>(reading.source.bytes.size());
  png_set_read_fn(png, &reading.source, read_png_bytes);
  png_set_user_limits(png, 0x7fffffff, 0x7fffffff);
  png_set_chunk_malloc_max(png, std::max<png_alloc_size_t>(reading.source.bytes.size(), kSmallChunk));
  png_read_info(png, info);

  image.width = png_get_image_width(png, info);
  image.height = png_get_image_height(png, info);
  if (image.width > kMaxPixels / image.height)
    refuse_png(png, "%lld x %lld pixels, at most %lld are accepted", image.width, image.height, kMaxPixels);
  if (static_cast<int64_t>(png_get_rowbytes(png, info)) * image.height > kDeflateLimit * file_size)
    refuse_png(png, "%lld x %lld pixels cannot come from %lld bytes", image.width, image.height, file_size);

  const int color = png_get_color_type(png, info);
  if (png_get_bit_depth(png, info) == 16) png_set_strip_16(png);
  if (color == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png);
  if (color == PNG_COLOR_TYPE_GRAY) png_set_expand_gray_1_2_4_to_8(png);
  png_set_strip_alpha(png);
  png_set_interlace_handling(png);
  png_read_update_info(png, info);

  image.channels = png_get_channels(png, info);
  const std::size_t stride = png_get_rowbytes(png, info);
  if (stride != static_cast<std::size_t>(image.width * image.channels))
    png_error(png, "unexpected pixel layout");
  image.pixels.resize(stride * static_cast<std::size_t>(image.height));
  reading.rows.resize(static_cast<std::size_t>(image.height));
  for (std::size_t y = 0; y < reading.rows.size(); ++y) reading.rows[y] = image.pixels.data() + y * stride;
  png_read_image(png, reading.rows.data());
  // The eXIf chunk may also come after the pixels.
  png_read_end(png, info);
  png_uint_32 exif_size = 0;
  png_bytep exif = nullptr;
  if (png_get_eXIf_1(png, info, &exif_size, &exif) != 0)
    image.orientation = exif_orientation({reinterpret_cast<const char*>(exif), exif_size});
}

/// Checks the declared chunk lengths against the file size. libpng allocates a chunk by its declared length
/// before it reads the chunk.
void check_chunk_lengths(std::string_view bytes, std::string_view where) {
  constexpr std::size_t kSignature = 8;
  constexpr std::size_t kHead = 8;     // length and name
  constexpr std::size_t kAround = 12;  // length, name and checksum
  for (std::size_t at = kSignature; at + kHead <= bytes.size();) {
    std::size_t length = 0;
    for (std::size_t i = 0; i < 4; ++i) length = length << 8 | static_cast<unsigned char>(bytes[at + i]);
    const std::string_view name = bytes.substr(at + 4, 4);
    require<FileError>(kAround + length <= bytes.size() - at,
                       "{}: not a readable PNG image: the file ends early, in chunk {} of {} bytes", where,
                       escaped(name), length);
    if (name == "IEND") return;
    at += kAround + length;
  }
}

struct PngWriting {
  const RawImage& image;
  std::string out;
};

void write_png_steps(png_structp png, png_infop info, PngWriting& writing) {
  const RawImage& image = writing.image;
  png_set_write_fn(png, &writing.out, write_png_bytes, [](png_structp) {});
  const int color = image.channels == 1   ? PNG_COLOR_TYPE_GRAY
                    : image.channels == 3 ? PNG_COLOR_TYPE_RGB
                                          : PNG_COLOR_TYPE_RGBA;
  png_set_user_limits(png, 0x7fffffff, 0x7fffffff);
  png_set_IHDR(png, info, static_cast<png_uint_32>(image.width), static_cast<png_uint_32>(image.height), 8,
               color, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  png_write_info(png, info);
  const std::size_t stride = static_cast<std::size_t>(image.width * image.channels);
  for (int64_t y = 0; y < image.height; ++y)
    png_write_row(png, image.pixels.data() + static_cast<std::size_t>(y) * stride);
  png_write_end(png, info);
}

/// Runs `work` in the only frame that longjmp returns to. It has no local variables that could be lost.
/// @return false with the reason in the error of `png`
template <class Work>
__attribute__((noinline)) bool run_png(png_structp png, png_infop info, Work& work,
                                       void (*steps)(png_structp, png_infop, Work&)) {
  if (setjmp(png_jmpbuf(png)) != 0) return false;
  steps(png, info, work);
  return true;
}

}  // namespace

RawImage internal::decode_png(std::string_view bytes, std::string_view where) {
  check_chunk_lengths(bytes, where);
  PngError error;
  PngReading reading{{bytes}, {}, {}};
  png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &error, on_png_error, on_png_warning);
  png_infop info = png != nullptr ? png_create_info_struct(png) : nullptr;
  bool done = false;
  try {
    done = info != nullptr && run_png(png, info, reading, read_png_steps);
  } catch (...) {
    png_destroy_read_struct(&png, &info, nullptr);
    throw;
  }
  png_destroy_read_struct(&png, &info, nullptr);
  require<FileError>(done, "{}: not a readable PNG image: {}", where, std::string(error.text));
  return std::move(reading.image);
}

std::string internal::encode_png(const RawImage& image, std::string_view where) {
  PngError error;
  PngWriting writing{image, {}};
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &error, on_png_error, on_png_warning);
  png_infop info = png != nullptr ? png_create_info_struct(png) : nullptr;
  const bool done = info != nullptr && run_png(png, info, writing, write_png_steps);
  png_destroy_write_struct(&png, &info);
  require<FileError>(done, "{}: cannot encode as PNG: {}", where, std::string(error.text));
  return std::move(writing.out);
}

RawImage internal::decode_image(std::string_view bytes, std::string_view where) {
  if (bytes.starts_with("\x89PNG\r\n\x1a\n")) return decode_png(bytes, where);
  if (bytes.starts_with("\xff\xd8\xff")) return decode_jpeg(bytes, where);
  if (const auto meaning = describe_foreign_content(bytes))
    fail<FileError>("{}: expected a PNG or JPEG image: {}", where, *meaning);
  fail<FileError>("{}: expected a PNG or JPEG image, found neither's first bytes in {} bytes", where,
                  bytes.size());
}

}  // namespace diffusers

// jpeglib.h requires FILE and size_t to be declared.
#include <cstddef>
#include <cstdio>
// clang-format off
#include <jpeglib.h>
#include <jerror.h>
// clang-format on

#include <csetjmp>
#include <cstdlib>
#include <memory>

#include "core/require.h"
#include "io/exif.h"
#include "io/image_codec.h"

namespace diffusers {
inline namespace internal {
namespace {

/// Largest number of scans. A progressive file usually has ten, but a malicious one can repeat them
/// endlessly.
constexpr int kMaxJpegScans = 100;
constexpr long kMaxJpegMemory = long{2} << 30;

struct JpegError {
  jpeg_error_mgr manager{};  // must be first: libjpeg returns its address
  std::jmp_buf jump{};
  char text[JMSG_LENGTH_MAX] = "unknown error";
  char warning[JMSG_LENGTH_MAX] = "";
};

/// libjpeg reports errors by longjmp. The frames that it skips must not have objects with destructors.
[[noreturn]] void on_jpeg_error(j_common_ptr common) {
  auto* error = reinterpret_cast<JpegError*>(common->err);
  error->manager.format_message(common, error->text);
  std::longjmp(error->jump, 1);
}

/// Returns true if a warning means lost data. libjpeg fills damaged or missing parts with gray and only
/// warns; these warnings are errors here. All other warnings are about irregular but complete data, such as
/// bytes between segments.
bool is_damage(int code) {
  return code == JWRN_JPEG_EOF || code == JWRN_HIT_MARKER || code == JWRN_HUFF_BAD_CODE ||
         code == JWRN_ARITH_BAD_CODE || code == JWRN_MUST_RESYNC;
}

void on_jpeg_message(j_common_ptr common, int level) {
  if (level >= 0) return;
  if (is_damage(common->err->msg_code)) on_jpeg_error(common);
  // num_warnings is libjpeg's counter. Only the first message is kept.
  if (common->err->num_warnings++ > 0) return;
  common->err->format_message(common, reinterpret_cast<JpegError*>(common->err)->warning);
}

void limit_jpeg_scans(j_common_ptr common) {
  if (!common->is_decompressor) return;
  if (reinterpret_cast<j_decompress_ptr>(common)->input_scan_number <= kMaxJpegScans) return;
  auto* error = reinterpret_cast<JpegError*>(common->err);
  std::snprintf(error->text, sizeof(error->text), "more than %d scans", kMaxJpegScans);
  std::longjmp(error->jump, 1);
}

uint8_t scale_by(uint8_t value, uint8_t factor) {
  const unsigned product = unsigned{value} * factor + 128;
  return static_cast<uint8_t>(((product >> 8) + product) >> 8);
}

/// Converts a CMYK row to RGB as Pillow does. JPEG stores CMYK inverted (Adobe's convention).
void cmyk_row_to_rgb(const uint8_t* cmyk, uint8_t* rgb, int64_t width) {
  for (int64_t x = 0; x < width; ++x, cmyk += 4, rgb += 3) {
    const uint8_t light = cmyk[3];
    for (int c = 0; c < 3; ++c)
      rgb[c] = static_cast<uint8_t>(light - scale_by(static_cast<uint8_t>(255 - cmyk[c]), light));
  }
}

struct JpegBuffers {
  RawImage image;
  std::vector<uint8_t> row;
};

[[noreturn]] void refuse_jpeg(JpegError& error, const char* format, long long first, long long second,
                              long long third) {
  std::snprintf(error.text, sizeof(error.text), format, first, second, third);
  std::longjmp(error.jump, 1);
}

int saved_orientation(const jpeg_decompress_struct& jpeg) {
  for (const jpeg_marker_struct* marker = jpeg.marker_list; marker != nullptr; marker = marker->next) {
    constexpr std::string_view kMark("Exif\0\0", 6);
    std::string_view segment(reinterpret_cast<const char*>(marker->data),
                             static_cast<std::size_t>(marker->data_length));
    if (!segment.starts_with(kMark)) continue;
    segment.remove_prefix(kMark.size());
    const int orientation = exif_orientation(segment);
    if (orientation != 1) return orientation;
  }
  return 1;
}

/// Reads the image. It leaves by longjmp on an error.
void read_jpeg_steps(jpeg_decompress_struct& jpeg, jpeg_progress_mgr& progress, JpegError& error,
                     std::string_view bytes, JpegBuffers& out) {
  jpeg_create_decompress(&jpeg);
  progress.progress_monitor = limit_jpeg_scans;
  jpeg.progress = &progress;
  jpeg.mem->max_memory_to_use = kMaxJpegMemory;
  jpeg_mem_src(&jpeg, reinterpret_cast<const unsigned char*>(bytes.data()),
               static_cast<unsigned long>(bytes.size()));
  jpeg_save_markers(&jpeg, JPEG_APP0 + 1, 0xffff);
  jpeg_read_header(&jpeg, TRUE);

  RawImage& image = out.image;
  image.width = jpeg.image_width;
  image.height = jpeg.image_height;
  if (image.width > kMaxPixels / image.height)
    refuse_jpeg(error, "%lld x %lld pixels, at most %lld are accepted", image.width, image.height,
                kMaxPixels);
  // With Huffman codes a block of 8 x 8 pixels takes at least one bit. Arithmetic codes can be shorter, but
  // not for real images.
  const int64_t pixels_of_a_byte = jpeg.arith_code ? 512 * 64 : 512;
  if (image.width * image.height / pixels_of_a_byte > static_cast<int64_t>(bytes.size()))
    refuse_jpeg(error, "%lld x %lld pixels cannot come from %lld bytes", image.width, image.height,
                static_cast<long long>(bytes.size()));

  const bool is_cmyk = jpeg.jpeg_color_space == JCS_CMYK || jpeg.jpeg_color_space == JCS_YCCK;
  const bool is_gray = jpeg.jpeg_color_space == JCS_GRAYSCALE;
  jpeg.out_color_space = is_cmyk ? JCS_CMYK : is_gray ? JCS_GRAYSCALE : JCS_RGB;
  jpeg_start_decompress(&jpeg);
  image.channels = is_gray ? 1 : 3;
  const auto stride = static_cast<std::size_t>(image.width * image.channels);
  image.pixels.resize(stride * static_cast<std::size_t>(image.height));
  if (is_cmyk) out.row.resize(static_cast<std::size_t>(image.width) * 4);
  while (jpeg.output_scanline < jpeg.output_height) {
    uint8_t* target = image.pixels.data() + jpeg.output_scanline * stride;
    JSAMPROW row = is_cmyk ? out.row.data() : target;
    jpeg_read_scanlines(&jpeg, &row, 1);
    if (is_cmyk) cmyk_row_to_rgb(out.row.data(), target, image.width);
  }
  image.orientation = saved_orientation(jpeg);
  jpeg_finish_decompress(&jpeg);
}

/// Runs read_jpeg_steps in the only frame that longjmp returns to. It has no local variables that could be
/// lost.
/// @return false with the reason in `error`
__attribute__((noinline)) bool read_jpeg(jpeg_decompress_struct& jpeg, jpeg_progress_mgr& progress,
                                         JpegError& error, std::string_view bytes, JpegBuffers& out,
                                         void (*steps)(jpeg_decompress_struct&, jpeg_progress_mgr&,
                                                       JpegError&, std::string_view, JpegBuffers&)) {
  if (setjmp(error.jump) != 0) return false;
  steps(jpeg, progress, error, bytes, out);
  return true;
}

/// A buffer that libjpeg allocates.
struct JpegBytes {
  unsigned char* data = nullptr;
  unsigned long size = 0;
};

/// Compresses the image. It leaves by longjmp on an error.
void write_jpeg_steps(jpeg_compress_struct& jpeg, const RawImage& image, JpegBytes& out) {
  jpeg_create_compress(&jpeg);
  jpeg_mem_dest(&jpeg, &out.data, &out.size);
  jpeg.image_width = static_cast<JDIMENSION>(image.width);
  jpeg.image_height = static_cast<JDIMENSION>(image.height);
  jpeg.input_components = static_cast<int>(image.channels);
  jpeg.in_color_space = image.channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
  jpeg_set_defaults(&jpeg);  // quality 75 and halved chroma, as Pillow
  jpeg_start_compress(&jpeg, TRUE);
  const auto stride = static_cast<std::size_t>(image.width * image.channels);
  while (jpeg.next_scanline < jpeg.image_height) {
    // libjpeg does not write to the rows.
    JSAMPROW row = const_cast<JSAMPROW>(image.pixels.data() + jpeg.next_scanline * stride);
    jpeg_write_scanlines(&jpeg, &row, 1);
  }
  jpeg_finish_compress(&jpeg);
}

/// Runs write_jpeg_steps in the only frame that longjmp returns to, as read_jpeg.
__attribute__((noinline)) bool write_jpeg(jpeg_compress_struct& jpeg, JpegError& error, const RawImage& image,
                                          JpegBytes& out,
                                          void (*steps)(jpeg_compress_struct&, const RawImage&, JpegBytes&)) {
  if (setjmp(error.jump) != 0) return false;
  steps(jpeg, image, out);
  return true;
}

}  // namespace

std::string encode_jpeg(const RawImage& image, std::string_view where) {
  require<TensorError>(image.channels == 1 || image.channels == 3,
                       "a JPEG image has no transparency, expected 1 or 3 channels, got {}", where);
  JpegError error;
  JpegBytes out;
  jpeg_compress_struct jpeg{};
  jpeg.err = jpeg_std_error(&error.manager);
  error.manager.error_exit = on_jpeg_error;
  const bool done = write_jpeg(jpeg, error, image, out, write_jpeg_steps);
  jpeg_destroy_compress(&jpeg);
  const std::unique_ptr<unsigned char, decltype(&std::free)> owner(out.data, &std::free);
  require<TensorError>(done, "{}: not a possible JPEG image: {}", where, std::string(error.text));
  return {reinterpret_cast<const char*>(out.data), static_cast<std::size_t>(out.size)};
}

RawImage decode_jpeg(std::string_view bytes, std::string_view where) {
  JpegError error;
  JpegBuffers out;
  jpeg_decompress_struct jpeg{};
  jpeg_progress_mgr progress{};
  jpeg.err = jpeg_std_error(&error.manager);
  error.manager.error_exit = on_jpeg_error;
  error.manager.emit_message = on_jpeg_message;
  bool done = false;
  try {
    done = read_jpeg(jpeg, progress, error, bytes, out, read_jpeg_steps);
  } catch (...) {
    jpeg_destroy_decompress(&jpeg);
    throw;
  }
  jpeg_destroy_decompress(&jpeg);
  require<FileError>(done, "{}: not a readable JPEG image: {}", where, std::string(error.text));
  out.image.warning = error.warning;
  return std::move(out.image);
}

}  // namespace internal
}  // namespace diffusers

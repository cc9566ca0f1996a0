#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include <diffusers/core/logging.h>
#include <diffusers/core/tensor.h>
#include <diffusers/io/files.h>
#include <diffusers/io/image.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "io/image_codec.h"
#include "io/image_tensor.h"
#include "io/posix_file.h"

namespace diffusers {
namespace {

/// Largest side in `LoadImageOptions::size`.
constexpr int64_t kMaxSide = 16384;

void require_image(const at::Tensor& image, bool is_batch) {
  const std::string_view shapes = is_batch ? "[B, C, H, W] or [C, H, W]" : "[C, H, W] or [1, C, H, W]";
  require<TensorError>(image.defined(), "expected an image {}, got an undefined tensor", shapes);
  const bool fits = image.dim() == 3 || (image.dim() == 4 && (is_batch || image.size(0) == 1));
  require<TensorError>(fits, "expected an image {}, got {}", shapes, describe(image));
  const int64_t channels = image.size(-3);
  require<TensorError>(channels == 1 || channels == 3 || channels == 4,
                       "expected an image of 1, 3 or 4 channels, got {}", describe(image));
  require<TensorError>(image.numel() > 0, "the image is empty: {}", describe(image));
  require<TensorError>(image.scalar_type() == at::kByte || image.is_floating_point(),
                       "expected a uint8 or floating image, got {}", describe(image));
}

/// Converts to a number of channels; to gray as Pillow's convert("L").
RawImage to_channels(RawImage image, int64_t channels) {
  if (channels == 0 || channels == image.channels) return image;
  RawImage out{image.width, image.height, channels, image.orientation, {}};
  const auto count = static_cast<std::size_t>(image.width * image.height);
  out.pixels.resize(count * static_cast<std::size_t>(channels));
  for (std::size_t i = 0; i < count; ++i) {
    if (channels == 3) {
      std::fill_n(&out.pixels[3 * i], 3, image.pixels[i]);
    } else {
      const uint8_t* rgb = &image.pixels[3 * i];
      out.pixels[i] =
          static_cast<uint8_t>((rgb[0] * 19595U + rgb[1] * 38470U + rgb[2] * 7471U + 0x8000U) >> 16);
    }
  }
  return out;
}

/// Rotates and flips an image by its EXIF orientation, 1 to 8.
at::Tensor upright(const at::Tensor& image, int orientation) {
  switch (orientation) {
    case 2:
      return image.flip({2});
    case 3:
      return image.flip({1, 2});
    case 4:
      return image.flip({1});
    case 5:
      return image.transpose(1, 2);
    case 6:
      return image.transpose(1, 2).flip({2});
    case 7:
      return image.transpose(1, 2).flip({1, 2});
    case 8:
      return image.transpose(1, 2).flip({1});
    default:
      return image;
  }
}

/// Logs a decoder warning once per file, for a limited number of files.
void warn_of_image(const std::string& path, const std::string& warning) {
  constexpr std::size_t kMostFiles = 100;
  static std::mutex mutex;
  static std::set<std::string> warned;
  {
    const std::lock_guard lock(mutex);
    if (warned.size() > kMostFiles || !warned.insert(path).second) return;
    if (warned.size() > kMostFiles) {
      log_message(LogLevel::kWarning,
                  fmt::format("{} image files had warnings; those of further files are not "
                              "shown",
                              kMostFiles));
      return;
    }
  }
  log_message(LogLevel::kWarning, fmt::format("{}: loaded with a warning: {}", escaped(path), warning));
}

RawImage to_raw_image(const at::Tensor& image) {
  require_image(image, /*is_batch=*/false);
  at::Tensor bytes = image.detach().cpu();
  if (bytes.dim() == 4) bytes = bytes[0];
  if (bytes.is_floating_point())
    bytes = bytes.to(at::kFloat).nan_to_num(0.0, 1.0, 0.0).clamp(0, 1).mul(255).round().to(at::kByte);
  bytes = bytes.permute({1, 2, 0}).contiguous();
  RawImage raw{bytes.size(1), bytes.size(0), bytes.size(2), 1, {}};
  const auto* data = bytes.const_data_ptr<uint8_t>();
  raw.pixels.assign(data, data + bytes.numel());
  return raw;
}

}  // namespace

std::string encode_png(const at::Tensor& image) { return encode_png(to_raw_image(image), describe(image)); }

void save_image(const at::Tensor& image, const std::filesystem::path& path) {
  const std::string& name = path.native();
  const bool is_jpeg = name.ends_with(".jpg") || name.ends_with(".jpeg");
  require<FileError>(
      is_jpeg || name.ends_with(".png"),
      "{}: images are written as PNG or JPEG, expected a name that ends with .png, .jpg or .jpeg",
      escaped(name));
  write_file(is_jpeg ? encode_jpeg(to_raw_image(image), describe(image)) : encode_png(image), path);
}

at::Tensor make_grid(const at::Tensor& images, const ImageGridOptions& options) {
  require_image(images, /*is_batch=*/true);
  require<ConfigError>(options.columns > 0, "columns is {}, expected at least 1", options.columns);
  require<ConfigError>(options.padding >= 0 && options.padding <= 65536, "padding is {}, expected 0 to 65536",
                       options.padding);
  require<ConfigError>(options.pad_value >= 0 && options.pad_value <= 1, "pad_value is {}, expected 0 to 1",
                       options.pad_value);
  const at::Tensor batch = images.dim() == 3 ? images.unsqueeze(0) : images;
  const int64_t count = batch.size(0);
  const int64_t columns = std::min(options.columns, count);
  const int64_t rows = (count + columns - 1) / columns;
  const int64_t height = batch.size(2) + options.padding;
  const int64_t width = batch.size(3) + options.padding;
  const bool is_byte = batch.scalar_type() == at::kByte;
  at::Tensor grid =
      at::full({batch.size(1), rows * height + options.padding, columns * width + options.padding},
               is_byte ? std::round(options.pad_value * 255) : options.pad_value, batch.options());
  for (int64_t i = 0; i < count; ++i) {
    grid.narrow(1, i / columns * height + options.padding, batch.size(2))
        .narrow(2, i % columns * width + options.padding, batch.size(3))
        .copy_(batch[i]);
  }
  return grid;
}

void save_image_grid(const at::Tensor& images, const std::filesystem::path& path,
                     const ImageGridOptions& options) {
  save_image(make_grid(images, options), path);
}

at::Tensor internal::resize_pixels(const at::Tensor& images, int64_t height, int64_t width) {
  if (images.size(2) == height && images.size(3) == width) return images;
  return at::_upsample_bilinear2d_aa(images, {height, width}, /*align_corners=*/false);
}

at::Tensor internal::to_unit(const at::Tensor& images) { return images.to(at::kFloat).div_(255); }

at::Tensor internal::to_signed_unit(const at::Tensor& images) { return to_unit(images).sub_(0.5).div_(0.5); }

at::Tensor internal::image_from_bytes(std::string_view bytes, const std::string& where,
                                      const LoadImageOptions& options) {
  const std::vector<int64_t>& size = options.size.values();
  require<ConfigError>(options.channels == 0 || options.channels == 1 || options.channels == 3,
                       "channels is {}, expected 0 (as in the file), 1 or 3", options.channels);
  require<ConfigError>(size.size() <= 2, "size has {} numbers, expected one or {{height, width}}",
                       size.size());
  for (const int64_t side : size)
    require<ConfigError>(side >= 1 && side <= kMaxSide, "size holds {}, expected 1 to {}", side, kMaxSide);
  RawImage decoded = decode_image(bytes, where);
  if (!decoded.warning.empty()) warn_of_image(where, decoded.warning);
  const RawImage image = to_channels(std::move(decoded), options.channels);
  at::Tensor tensor = at::empty({image.height, image.width, image.channels}, at::kByte);
  std::memcpy(tensor.data_ptr(), image.pixels.data(), image.pixels.size());
  tensor = tensor.permute({2, 0, 1});
  if (options.exif_transpose) tensor = upright(tensor, image.orientation);
  tensor = tensor.contiguous();
  if (!size.empty()) tensor = resize_pixels(tensor.unsqueeze(0), size.front(), size.back()).squeeze(0);
  switch (options.range.value()) {
    case PixelRange::kByte:
      return tensor;
    case PixelRange::kUnit:
      return to_unit(tensor);
    case PixelRange::kSigned:
      return to_signed_unit(tensor);
  }
  fail<ConfigError>("unknown pixel range {}", static_cast<int>(options.range.value()));
}

at::Tensor load_image(const std::filesystem::path& path, const LoadImageOptions& options) {
  return image_from_bytes(read_text_file(path, kMaxImageFile), path.native(), options);
}

}  // namespace diffusers

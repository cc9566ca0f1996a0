// PNG images. The system's library is not instrumented, so libFuzzer observes only this library's code.
#include <cstdint>

#include <diffusers/core/error.h>

#include "fuzz.h"
#include "io/image_codec.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  using namespace diffusers;
  try {
    const RawImage image = decode_png(fuzz::text_of(data, size), "image");
    fuzz::check(image.channels == 1 || image.channels == 3, "gray or colour");
    fuzz::check(image.orientation >= 1 && image.orientation <= 8, "an orientation of EXIF");
    fuzz::check(image.pixels.size() == static_cast<std::size_t>(image.width * image.height * image.channels),
                "the size fits the pixels");
  } catch (const FileError&) {
  }
  return 0;
}

// IDX, raw or compressed.
#include <cstdint>

#include <diffusers/core/error.h>

#include "data/idx_reader.h"
#include "fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  using namespace diffusers;
  try {
    const IdxData idx = parse_idx(fuzz::text_of(data, size), "idx");
    std::size_t elements = 1;
    for (const int64_t length : idx.shape) elements *= static_cast<std::size_t>(length);
    fuzz::check(elements == 0 ? idx.bytes.empty() : idx.bytes.size() % elements == 0,
                "the shape fits the bytes");
  } catch (const FileError&) {
  }
  return 0;
}

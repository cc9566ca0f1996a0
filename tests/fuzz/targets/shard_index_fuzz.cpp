// The index of a sharded checkpoint.
#include <diffusers/core/error.h>
#include <diffusers/io/files.h>

#include "fuzz.h"
#include "io/shard_index.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  using namespace diffusers;
  try {
    for (const auto& [shard, tensors] : parse_shard_index(fuzz::text_of(data, size), "index")) {
      fuzz::check(is_plain_basename(shard), "a shard is a plain file name");
      fuzz::check(!tensors.empty(), "a shard has tensors");
    }
  } catch (const FileError&) {
  }
  return 0;
}

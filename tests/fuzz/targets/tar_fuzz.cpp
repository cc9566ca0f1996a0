// Shards: tar archives, plain or compressed, and the samples in them.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

#include <diffusers/core/error.h>

#include "data/tar_samples.h"
#include "fuzz.h"

namespace {

using namespace diffusers;

TarReader open(std::string_view bytes) { return TarReader(bytes, "shard"); }

/// Reads all samples, or passes over them.
/// @return number of samples, -1 after an error
int64_t count_samples(std::string_view bytes, const TarFields& fields, bool reads_data) {
  int64_t count = 0;
  try {
    TarSamples samples(open(bytes), fields);
    if (reads_data) {
      while (const auto sample = samples.next()) {
        fuzz::check(!sample->key.empty() && sample->key.find("..") == std::string::npos,
                    "keys stay in the archive");
        fuzz::check(sample->label.value_or(0) >= 0, "labels are not negative");
        ++count;
      }
    } else {
      while (samples.skip()) ++count;
    }
  } catch (const FileError& error) {
    fuzz::check(std::string_view(error.what()).starts_with("shard: "), "errors name the shard");
    return -1;
  }
  return count;
}

/// Repairs the checksum of the header at the start of a block.
void repair_checksum(unsigned char* header) {
  std::memset(header + 148, ' ', 8);
  unsigned sum = 0;
  for (int i = 0; i < 512; ++i) sum += header[i];
  std::snprintf(reinterpret_cast<char*>(header) + 148, 7, "%06o", sum);
}

}  // namespace

extern "C" std::size_t LLVMFuzzerMutate(unsigned char* data, std::size_t size, std::size_t max_size);

/// Mutates an archive, and mostly repairs the checksums of its headers.
extern "C" std::size_t LLVMFuzzerCustomMutator(unsigned char* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  size = LLVMFuzzerMutate(data, size, max_size);
  if (seed % 8 == 0) return size;
  std::size_t at = 0;
  while (at + 512 <= size) {
    unsigned char* header = data + at;
    if (std::all_of(header, header + 512, [](unsigned char byte) { return byte == 0; })) break;
    repair_checksum(header);
    std::size_t length = 0;
    for (int i = 124; i < 135 && header[i] >= '0' && header[i] <= '7'; ++i)
      length = length * 8 + (header[i] - '0');
    at += 512 + (length + 511) / 512 * 512;
  }
  return size;
}

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  const std::string_view bytes = fuzz::text_of(data, size);
  TarFields fields;
  try {
    fields = find_tar_fields(open(bytes), "", "");
  } catch (const FileError& error) {
    fuzz::check(std::string_view(error.what()).starts_with("shard: "), "errors name the shard");
  }
  const int64_t read = count_samples(bytes, fields, true);
  const int64_t skipped = count_samples(bytes, fields, false);
  fuzz::check(read < 0 || read == skipped, "as many samples are passed over as are read");
  return 0;
}

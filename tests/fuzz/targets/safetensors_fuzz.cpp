// The header of a safetensors file. The mutator knows the format: it changes the header as text or as tokens.
// It then usually corrects the length before the header and the amount of data after it, which random changes
// would not do.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>

#include <diffusers/core/error.h>

#include "fuzz.h"
#include "io/safetensors_header.h"

extern "C" std::size_t LLVMFuzzerMutate(unsigned char* data, std::size_t size, std::size_t max_size);

namespace diffusers {
namespace {

using Random = std::minstd_rand;

constexpr std::array<std::string_view, 40> kTokens{"\"__metadata__\":{",
                                                   "\"a\":",
                                                   "\"dtype\":",
                                                   "\"shape\":",
                                                   "\"data_offsets\":",
                                                   "\"F32\"",
                                                   "\"F64\"",
                                                   "\"BF16\"",
                                                   "\"U8\"",
                                                   "\"BOOL\"",
                                                   "\"F4\"",
                                                   "\"F6_E2M3\"",
                                                   "\"C64\"",
                                                   "[]",
                                                   "{}",
                                                   "[0,0]",
                                                   "[0,4]",
                                                   "[1]",
                                                   "[2,2]",
                                                   "[0]",
                                                   "null",
                                                   "true",
                                                   "-1",
                                                   "-0",
                                                   "1.0",
                                                   "1e400",
                                                   "0",
                                                   "4",
                                                   "4294967296",
                                                   "9223372036854775807",
                                                   "9223372036854775808",
                                                   "18446744073709551615",
                                                   "18446744073709551616",
                                                   "\"\\u0000\"",
                                                   "\"\\ud800\"",
                                                   "[[[[[[[[",
                                                   "]]]]]]]]",
                                                   ",",
                                                   " ",
                                                   "\n"};

std::size_t below(Random& random, std::size_t count) { return count == 0 ? 0 : random() % count; }

uint64_t header_length(const std::string& file) {
  uint64_t length = 0;
  for (std::size_t i = 0; i < 8; ++i) length |= uint64_t{static_cast<unsigned char>(file[i])} << (8 * i);
  return length;
}

/// Returns the largest second number in a pair of brackets, the expected end of the data.
uint64_t declared_end(const std::string& header) {
  uint64_t end = 0;
  for (std::size_t at = header.find("\"data_offsets\""); at != std::string::npos;
       at = header.find("\"data_offsets\"", at + 1)) {
    const std::size_t comma = header.find(',', at);
    const std::size_t close = header.find(']', at);
    if (comma == std::string::npos || close == std::string::npos || comma > close || close - comma > 8)
      continue;
    end = std::max<uint64_t>(end, std::strtoull(header.c_str() + comma + 1, nullptr, 10));
  }
  return end;
}

void replace_number(std::string& header, Random& random) {
  std::size_t begin = header.find_first_of("0123456789", below(random, header.size()));
  if (begin == std::string::npos) begin = header.find_first_of("0123456789");
  if (begin == std::string::npos) return;
  std::size_t end = begin;
  while (end < header.size() && header[end] >= '0' && header[end] <= '9') ++end;
  const uint64_t number =
      std::strtoull(header.substr(begin, std::min<std::size_t>(end - begin, 18)).c_str(), nullptr, 10);
  const std::array<uint64_t, 8> choices{0,          1,          number + 1, number - 1,
                                        number * 2, number / 2, number + 4, random()};
  header.replace(begin, end - begin, std::to_string(choices[below(random, choices.size())]));
}

/// Removes or duplicates one of the parts between commas or brackets, or replaces it by another part.
void move_part(std::string& header, Random& random) {
  const auto part = [&](std::size_t& begin, std::size_t& end) {
    begin = header.find_first_of("{[,", below(random, header.size()));
    if (begin == std::string::npos) return false;
    end = header.find_first_of("}],", begin + 1);
    if (end == std::string::npos) return false;
    // Sometimes changes a whole tensor.
    if (random() % 2 == 0) end = std::min(header.find('}', end), header.size() - 1) + 1;
    return end <= header.size();
  };
  std::size_t begin = 0;
  std::size_t end = 0;
  if (!part(begin, end)) return;
  const std::string text = header.substr(begin, end - begin);
  const auto choice = random() % 3;
  if (choice == 0) {
    header.erase(begin, end - begin);
  } else if (choice == 1) {
    header.insert(end, text);
  } else if (part(begin, end)) {
    header.replace(begin, end - begin, text);
  }
}

void mutate_header(std::string& header, std::size_t room, Random& random) {
  const auto choice = random() % 8;
  if (choice < 3) {
    const std::size_t before = header.size();
    header.resize(std::max(room, before));
    header.resize(LLVMFuzzerMutate(reinterpret_cast<unsigned char*>(header.data()), before, header.size()));
  } else if (choice < 5) {
    replace_number(header, random);
  } else if (choice < 6) {
    move_part(header, random);
  } else {
    const std::string_view token = kTokens[below(random, kTokens.size())];
    const std::size_t at = below(random, header.size() + 1);
    const std::size_t removed =
        random() % 2 == 0 ? 0 : std::min<std::size_t>(random() % 12, header.size() - at);
    header.replace(at, removed, token);
  }
}

void check_header(const SafetensorsHeader& header, uint64_t data_size) {
  uint64_t covered = 0;
  for (const auto& entry : header.entries) {
    fuzz::check(entry.begin == covered && entry.end >= entry.begin, "the tensors follow each other");
    covered = entry.end;
    uint64_t bits = kSafetensorsDtypes[entry.dtype].bits;
    const bool is_empty = std::find(entry.shape.begin(), entry.shape.end(), 0) != entry.shape.end();
    for (const int64_t length : entry.shape) {
      fuzz::check(length >= 0, "no dimension is negative");
      fuzz::check(is_empty || !__builtin_mul_overflow(bits, static_cast<uint64_t>(length), &bits),
                  "the size fits 64 bits");
    }
    fuzz::check((is_empty ? 0 : bits) == (entry.end - entry.begin) * 8, "the shape fits the bytes");
  }
  fuzz::check(covered == data_size, "the tensors cover the data");
}

}  // namespace
}  // namespace diffusers

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  using namespace diffusers;
  unsigned char prefix[kSafetensorsPrefix];
  if (size < sizeof(prefix)) return 0;
  std::memcpy(prefix, data, sizeof(prefix));
  try {
    const uint64_t length = safetensors_header_size(prefix, size, "file");
    const uint64_t data_size = size - sizeof(prefix) - length;
    check_header(parse_safetensors_header(fuzz::text_of(data + sizeof(prefix), length), data_size, "file"),
                 data_size);
  } catch (const FileError&) {
  }
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(unsigned char* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  using namespace diffusers;
  Random random(seed);
  if (size < kSafetensorsPrefix || random() % 16 == 0) return LLVMFuzzerMutate(data, size, max_size);
  std::string file(reinterpret_cast<const char*>(data), size);
  const uint64_t length = std::min<uint64_t>(header_length(file), size - kSafetensorsPrefix);
  std::string header = file.substr(kSafetensorsPrefix, length);
  std::string values = file.substr(kSafetensorsPrefix + length);
  const std::size_t room = max_size - kSafetensorsPrefix;
  for (auto rounds = 1 + random() % 3; rounds > 0; --rounds) mutate_header(header, room, random);
  header.resize(std::min(header.size(), room));
  if (random() % 4 != 0) values.resize(std::min<uint64_t>(declared_end(header), 4096), '\1');
  uint64_t written = header.size();
  if (random() % 16 == 0) written += random() % 5 - 2;
  for (std::size_t i = 0; i < 8; ++i) data[i] = static_cast<unsigned char>(written >> (8 * i));
  file = header + values;
  file.resize(std::min(file.size(), room));
  std::copy(file.begin(), file.end(), data + kSafetensorsPrefix);
  return kSafetensorsPrefix + file.size();
}

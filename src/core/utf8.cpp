#include "core/utf8.h"

namespace diffusers {
inline namespace internal {

Utf8Prefix utf8_prefix(std::string_view bytes) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned first = byte(0);
  std::size_t length = first < 0x80 ? 1 : 0;
  // Range of the second byte. All later bytes have the widest range.
  unsigned low = 0x80;
  unsigned high = 0xBF;
  if (first >= 0xC2 && first <= 0xDF) {
    length = 2;
  } else if (first >= 0xE0 && first <= 0xEF) {
    length = 3;
    if (first == 0xE0) low = 0xA0;
    if (first == 0xED) high = 0x9F;
  } else if (first >= 0xF0 && first <= 0xF4) {
    length = 4;
    if (first == 0xF0) low = 0x90;
    if (first == 0xF4) high = 0x8F;
  }
  std::size_t taken = 1;
  while (taken < length && taken < bytes.size() && byte(taken) >= low && byte(taken) <= high) {
    ++taken;
    low = 0x80;
    high = 0xBF;
  }
  return {taken, taken == length};
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const Utf8Prefix prefix = utf8_prefix(text);
    if (!prefix.is_complete) return false;
    text.remove_prefix(prefix.size);
  }
  return true;
}

}  // namespace internal
}  // namespace diffusers

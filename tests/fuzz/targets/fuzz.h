#pragma once

#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace diffusers::fuzz {

inline std::string_view text_of(const unsigned char* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

/// Ends the process, as a sanitizer does, if a condition that must hold for every input is false.
inline void check(bool condition, const char* claim) {
  if (condition) return;
  std::fprintf(stderr, "does not hold: %s\n", claim);
  std::abort();
}

}  // namespace diffusers::fuzz

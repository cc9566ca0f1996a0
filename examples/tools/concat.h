#pragma once

// Small helpers for the text that inspect_checkpoint prints.

#include <sstream>
#include <string>
#include <vector>

/// The parts, printed one after the other.
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream text;
  text.precision(15);
  (text << ... << parts);
  return text.str();
}

/// The first `count` elements with commas between them.
inline std::string joined(const std::vector<std::string>& elements, std::size_t count) {
  std::string text;
  for (std::size_t i = 0; i < count && i < elements.size(); ++i) text += (i == 0 ? "" : ", ") + elements[i];
  return text;
}

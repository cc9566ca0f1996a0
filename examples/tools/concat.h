#pragma once

// Text helpers of inspect_checkpoint.

#include <sstream>
#include <string>
#include <vector>

/// Concatenates the printed parts.
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream text;
  text.precision(15);
  (text << ... << parts);
  return text.str();
}

/// Returns the first `count` elements, separated by commas.
inline std::string joined(const std::vector<std::string>& elements, std::size_t count) {
  std::string text;
  for (std::size_t i = 0; i < count && i < elements.size(); ++i) text += (i == 0 ? "" : ", ") + elements[i];
  return text;
}

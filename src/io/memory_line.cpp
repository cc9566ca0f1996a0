#include "io/memory_line.h"

#include <fstream>
#include <sstream>

namespace diffusers {
inline namespace internal {

std::optional<int64_t> read_memory_line(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(key + ":")) continue;
    std::istringstream value(line.substr(key.size() + 1));
    int64_t kibibytes = 0;
    if (value >> kibibytes) return 1024 * kibibytes;
    break;
  }
  return std::nullopt;
}

}  // namespace internal
}  // namespace diffusers

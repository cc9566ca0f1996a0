#pragma once

#include <cstdint>
#include <map>
#include <sstream>
#include <string>

namespace diffusers::faults {

/// A request of a script, `key=value key=value ...`.
class Request {
 public:
  explicit Request(const std::string& line) {
    std::istringstream words(line);
    for (std::string word; words >> word;)
      values_[word.substr(0, word.find('='))] = word.substr(word.find('=') + 1);
  }
  /// Returns the value of a key; empty if the key is missing.
  std::string text(const std::string& key) const {
    const auto found = values_.find(key);
    return found == values_.end() ? std::string() : found->second;
  }
  /// Returns the number of a key; `otherwise` if the key is missing.
  int64_t number(const std::string& key, int64_t otherwise) const {
    const std::string value = text(key);
    return value.empty() ? otherwise : std::stoll(value, nullptr, 0);
  }

 private:
  std::map<std::string, std::string> values_;
};

}  // namespace diffusers::faults

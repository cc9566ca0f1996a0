#include "flags.h"

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <string_view>

#include <torch/cuda.h>

namespace {

/// Makes a validator that rejects numbers that are not finite or not in the range.
CLI::Validator number_validator(std::function<bool(double)> is_in_range, const std::string& expected) {
  const auto check = [is_in_range = std::move(is_in_range),
                      expected](const std::string& text) -> std::string {
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0' || (std::isfinite(value) && is_in_range(value))) return "";
    return "the value is " + text + ", expected " + expected;
  };
  return {check, "", "number"};
}

std::string short_number(double value) {
  std::ostringstream text;
  text.precision(12);
  text << value;
  return text.str();
}

/// Returns the index in "cuda:INDEX"; nullopt for any other text.
std::optional<int64_t> cuda_index(std::string_view text) {
  if (!text.starts_with("cuda:")) return std::nullopt;
  text.remove_prefix(5);
  int64_t index = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), index);
  if (error != std::errc() || end != text.data() + text.size() || index < 0) return std::nullopt;
  return index;
}

/// Returns the number of CUDA devices, which LibTorch counts in a signed char.
int64_t cuda_device_count() { return static_cast<unsigned char>(torch::cuda::device_count()); }

/// Returns the available devices, such as "cpu" or "cpu, cuda:0, cuda:1".
std::string available_devices() {
  std::string devices = "cpu";
  const int64_t count = cuda_device_count();
  for (int64_t i = 0; i < count; ++i) devices += ", cuda:" + std::to_string(i);
  return devices;
}

/// Describes the problem of a device name; empty if the program can use the device.
std::string device_problem(const std::string& device) {
  if (device == "cpu") return "";
  const std::optional<int64_t> index = cuda_index(device);
  const std::string available = "; available: " + available_devices();
  if (device != "cuda" && !index) return "there is no device \"" + device + "\"" + available;
  const int64_t count = cuda_device_count();
  if (count == 0) return "there is no CUDA device" + available;
  if (index && *index >= count) return "there is no CUDA device " + std::to_string(*index) + available;
  return "";
}

}  // namespace

CLI::Validator at_least(double least) {
  return number_validator([=](double value) { return value >= least; },
                          "a number of at least " + short_number(least));
}

CLI::Validator greater_than(double limit) {
  return number_validator([=](double value) { return value > limit; },
                          "a number greater than " + short_number(limit));
}

CLI::Validator between(double least, double most) {
  return number_validator([=](double value) { return value >= least && value <= most; },
                          "a number from " + short_number(least) + " to " + short_number(most));
}

CLI::Validator available_device() { return {device_problem, "", "device"}; }

void parse_or_exit(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::exit(app.exit(error));
  }
}

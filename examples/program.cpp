#include "program.h"

#include <charconv>
#include <cstdio>
#include <optional>
#include <string_view>

#include <c10/util/Exception.h>
#include <torch/cuda.h>

namespace {

/// The index in "cuda:INDEX"; none for any other text.
std::optional<int64_t> cuda_index(std::string_view text) {
  if (!text.starts_with("cuda:")) return std::nullopt;
  text.remove_prefix(5);
  int64_t index = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), index);
  if (error != std::errc() || end != text.data() + text.size() || index < 0) return std::nullopt;
  return index;
}

/// Describes the problem of a device name; empty if the program can use the device.
std::string device_problem(const std::string& device) {
  if (device == "cpu") return "";
  const std::optional<int64_t> index = cuda_index(device);
  const std::string available = "; available: " + available_devices();
  if (device != "cuda" && !index) return "there is no device \"" + device + "\"" + available;
  const auto count = static_cast<int64_t>(torch::cuda::device_count());
  if (count == 0) return "there is no CUDA device" + available;
  if (index && *index >= count) return "there is no CUDA device " + std::to_string(*index) + available;
  return "";
}

}  // namespace

std::string available_devices() {
  std::string devices = "cpu";
  const auto count = static_cast<int64_t>(torch::cuda::device_count());
  for (int64_t i = 0; i < count; ++i) devices += ", cuda:" + std::to_string(i);
  return devices;
}

void add_device_flag(CLI::App& app, std::string& device) {
  app.add_option("--device", device, "cpu, cuda or cuda:INDEX")
      ->check(CLI::Validator(device_problem, "", "device"))
      ->capture_default_str();
}

int run_program(const char* name, int (*body)(int, char**), int argc, char** argv) {
  try {
    return body(argc, argv);
  } catch (const c10::Error& error) {
    std::fprintf(stderr, "%s: %s\n", name, error.what_without_backtrace());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", name, error.what());
  }
  return 1;
}

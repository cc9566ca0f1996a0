#pragma once

// Shared functions of the tests: golden tensors that Python wrote, comparison element by element, checks of
// error messages, and temporary folders.

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/tensor.h>
#include <diffusers/core/tensor_map.h>
#include <diffusers/io/files.h>
#include <diffusers/io/safetensors.h>

#include <gtest/gtest.h>

namespace diffusers::test {

/// Returns the path of a file in tests/golden.
inline std::string golden_path(std::string_view name) { return join_path(DIFFUSERS_TEST_GOLDEN, name); }

/// A golden file: its tensors and its metadata strings (often JSON).
struct Golden {
  TensorMap tensors;
  std::map<std::string, std::string> metadata;

  const Tensor& operator[](std::string_view name) const { return tensors.at(name); }
  bool contains(std::string_view name) const { return tensors.contains(name); }
};

/// @param name file name in tests/golden, such as "ddpm.safetensors"
inline Golden load_golden(std::string_view name) {
  const SafetensorsFile file(golden_path(name));
  Golden golden{{}, file.metadata()};
  for (const auto& tensor : file.names()) golden.tensors.insert(tensor, file.get(tensor));
  return golden;
}

/// Returns the position of element number `flat` of a contiguous tensor, such as "[1, 0, 27]".
inline std::string element_index(at::IntArrayRef sizes, int64_t flat) {
  std::vector<int64_t> index(sizes.size());
  for (std::size_t i = sizes.size(); i-- > 0; flat /= sizes[i]) index[i] = flat % sizes[i];
  return shape_string(index);
}

/// Checks that every element is within `atol + rtol * |expected|`. NaN equals NaN, and infinities of equal
/// sign are equal. A failure prints the label, the worst element, its position and both values.
/// @return true if all were close
inline bool expect_close(const Tensor& actual, const Tensor& expected, double rtol = 1e-5, double atol = 1e-5,
                         std::string_view label = "") {
  if (!actual.defined() || !expected.defined() || actual.sizes() != expected.sizes()) {
    ADD_FAILURE() << label << ": got " << describe(actual) << ", expected " << describe(expected);
    return false;
  }
  const Tensor got = actual.detach().to(at::kCPU, at::kDouble).contiguous();
  const Tensor want = expected.detach().to(at::kCPU, at::kDouble).contiguous();
  const double* a = got.const_data_ptr<double>();
  const double* b = want.const_data_ptr<double>();
  int64_t wrong = 0;
  int64_t worst = -1;
  double worst_excess = 0;
  for (int64_t i = 0; i < got.numel(); ++i) {
    if (a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]))) continue;
    double excess = std::abs(a[i] - b[i]) - (atol + rtol * std::abs(b[i]));
    if (excess <= 0 && std::isfinite(a[i]) && std::isfinite(b[i])) continue;
    if (!std::isfinite(excess) || !std::isfinite(b[i])) excess = HUGE_VAL;
    ++wrong;
    if (worst < 0 || excess > worst_excess) {
      worst = i;
      worst_excess = excess;
    }
  }
  if (wrong == 0) return true;
  std::ostringstream text;
  text.precision(9);
  text << label << ": " << wrong << " of " << got.numel() << " elements differ; worst at "
       << element_index(got.sizes(), worst) << ": got " << a[worst] << ", expected " << b[worst]
       << " (difference " << std::abs(a[worst] - b[worst]) << ", rtol " << rtol << ", atol " << atol << ")";
  ADD_FAILURE() << text.str();
  return false;
}

/// Checks that dtype, shape and bits are equal (NaN equals NaN).
inline bool expect_equal(const Tensor& actual, const Tensor& expected, std::string_view label = "") {
  if (actual.defined() && expected.defined() && actual.scalar_type() != expected.scalar_type()) {
    ADD_FAILURE() << label << ": got " << describe(actual) << ", expected " << describe(expected);
    return false;
  }
  return expect_close(actual, expected, 0, 0, label);
}

/// Checks that `function()` throws `E` or a class derived from it, with a message that contains `part`.
template <class E, class Function>
void expect_throws_with(Function&& function, std::string_view part) {
  try {
    std::forward<Function>(function)();
    ADD_FAILURE() << "expected an error with \"" << part << "\", nothing was thrown";
  } catch (const E& error) {
    EXPECT_NE(std::string_view(error.what()).find(part), std::string_view::npos)
        << "expected \"" << part << "\" in: " << error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "expected another type of error with \"" << part << "\", got: " << error.what();
  }
}

/// Writes a file directly, without a temporary file.
inline void write_bytes(const std::string& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

/// A new folder that is removed with its content at the end of the scope.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    const char* base = std::getenv("TMPDIR");
    std::string pattern = std::string(base != nullptr ? base : "/tmp") + "/diffusers-test-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) throw FileError("cannot create " + pattern);
    path_ = pattern;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    try {
      remove_folder(path_);
    } catch (const Error& error) {
      ADD_FAILURE() << error.what();
    }
  }

  const std::string& path() const { return path_; }
  /// Returns the path of a file or folder inside.
  std::string operator/(std::string_view name) const { return join_path(path_, name); }

 private:
  std::string path_;
};

}  // namespace diffusers::test

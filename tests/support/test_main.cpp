// The main function of all C++ tests. It runs GoogleTest, and prints the skipped tests with their reasons at
// the end, which GoogleTest does not print with --gtest_brief=1. It also writes them to the folder
// DIFFUSERS_SKIPS, from which ctest's list is made.
//
// With the environment variable DIFFUSERS_SKIP_CODE the program exits with that code if all selected tests
// were skipped, and with 1 if the filter selects none. Tests for a CUDA device use it.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace {

class SkipListener : public testing::EmptyTestEventListener {
 public:
  /// @param program name of the executable, "test_NAME"
  explicit SkipListener(const std::string& program)
      : name_(program.starts_with("test_") ? program.substr(5) : program) {}

  void OnTestEnd(const testing::TestInfo& info) override {
    if (!info.result()->Skipped()) return;
    std::string reason;
    for (int i = 0; i < info.result()->total_part_count(); ++i)
      if (const auto& part = info.result()->GetTestPartResult(i); part.skipped()) reason = part.message();
    std::replace(reason.begin(), reason.end(), '\n', ' ');
    if (reason.find_first_not_of(' ') == std::string::npos) reason = "no reason is given";
    skipped_.push_back(name_ + ": " + info.test_suite_name() + "." + info.name() + ": " + reason);
  }

  void OnTestProgramEnd(const testing::UnitTest&) override {
    if (skipped_.empty()) return;
    std::printf("%zu %s skipped:\n", skipped_.size(), skipped_.size() == 1 ? "test is" : "tests are");
    for (const auto& line : skipped_) std::printf("SKIPPED: %s\n", line.c_str());
    const char* folder = std::getenv("DIFFUSERS_SKIPS");
    if (folder == nullptr) return;
    std::filesystem::create_directories(folder);
    const auto path = std::filesystem::path(folder) / (name_ + ".txt");
    // A test with the label `cuda` runs tests of the same program once more.
    std::set<std::string> listed;
    std::ifstream before(path);
    for (std::string line; std::getline(before, line);) listed.insert(line);
    std::ofstream file(path, std::ios::app);
    for (const auto& line : skipped_)
      if (!listed.contains(line)) file << line << '\n';
  }

 private:
  std::string name_;
  std::vector<std::string> skipped_;
};

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const std::string program = std::filesystem::path(argv[0]).filename().string();
  testing::UnitTest::GetInstance()->listeners().Append(new SkipListener(program));
  const int code = RUN_ALL_TESTS();
  const char* const skip_code = std::getenv("DIFFUSERS_SKIP_CODE");
  if (code != 0 || skip_code == nullptr) return code;
  const auto& tests = *testing::UnitTest::GetInstance();
  if (tests.test_to_run_count() == 0) {
    std::printf("the filter selects no test\n");
    return 1;
  }
  return tests.skipped_test_count() == tests.test_to_run_count() ? std::atoi(skip_code) : 0;
}

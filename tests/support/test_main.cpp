// The main function of all C++ tests. It runs GoogleTest, and prints the skipped tests with their reasons at
// the end, which GoogleTest does not print with --gtest_brief=1. It also writes them to the folder
// DIFFUSERS_SKIPS, from which ctest's list is made.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
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
    std::ofstream file(std::filesystem::path(folder) / (name_ + ".txt"), std::ios::app);
    for (const auto& line : skipped_) file << line << '\n';
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
  return RUN_ALL_TESTS();
}

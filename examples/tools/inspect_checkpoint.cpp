// Lists the content of a checkpoint and checks whether it can be loaded: a pipeline folder, a model folder or
// a safetensors file, of Python or of this library. Of adapters and learned embeddings it tells the layout.
// The exit code is 1 if loading would fail.

#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/logging.h>

#include "../flags.h"
#include "../program.h"
#include "checkpoint_report.h"

using namespace diffusers;

namespace {

void print(const std::string& path, const Report& report) {
  std::printf("%s: %s\n%s", path.c_str(), report.title.empty() ? "cannot be opened" : report.title.c_str(),
              describe_components(report).c_str());
  for (const auto& detail : report.details) std::printf("  %s\n", detail.c_str());
  for (const auto& warning : report.warnings) std::printf("warning: %s\n", warning.c_str());
  for (const auto& error : report.errors) std::printf("error: %s\n", error.c_str());
}

struct Settings {
  std::string checkpoint;
  std::string against;
  std::string variant;
  bool skip_values = false;
};

const FlagTable<Settings>& flags() {
  static const FlagTable<Settings> table{
      {"Flags",
       {{"checkpoint",
         &Settings::checkpoint,
         "Pipeline folder, model folder or safetensors file, also of an adapter or a learned embedding.",
         {.required = true}},
        {"--against", &Settings::against, "Another checkpoint, to compare with."},
        {"--variant", &Settings::variant, "Variant of the files of both, such as fp16."},
        {"--skip_values", &Settings::skip_values,
         "Do not read the tensors. This is faster, but NaN is not noticed."}}},
  };
  return table;
}

int run(int argc, char** argv) {
  const Settings settings = parse_flags(
      flags(), "Says what is in a checkpoint, what is wrong with it, and how it differs from another one",
      argc, argv);
  const auto& [path, against, variant, skip_values] = settings;

  // Warnings about a config are part of the report.
  std::vector<std::string> messages;
  set_log_sink([&](LogLevel, std::string_view message) { messages.emplace_back(message); });
  Report report = open_checkpoint(path, variant);
  check_tensors(report);
  check_configs(report);
  if (!skip_values) check_values(report);
  report.warnings.insert(report.warnings.end(), messages.begin(), messages.end());
  print(path, report);
  bool would_fail = !report.errors.empty();

  if (!against.empty()) {
    const Report other = open_checkpoint(against, variant);
    for (const auto& error : other.errors) std::printf("error: %s\n", error.c_str());
    would_fail |= !other.errors.empty();
    const std::string differences = describe_differences(report, other, !skip_values);
    std::printf("against %s:\n%s", against.c_str(),
                differences.empty() ? "  no difference\n" : differences.c_str());
  }
  std::printf("%s\n", would_fail ? "A load would fail." : "It would load.");
  return would_fail ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) { return run_program("inspect_checkpoint", run, argc, argv); }

// Types and exceptions across the boundary of the shared library.
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <typeinfo>

#include <diffusers/core/error.h>
#include <diffusers/core/logging.h>
#include <diffusers/io/files.h>
#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/schedulers/ddpm_scheduler.h>

namespace {

int g_failures = 0;

void expect(bool is_right, const char* claim) {
  if (is_right) return;
  std::printf("wrong: %s\n", claim);
  ++g_failures;
}

/// Returns true if the library throws an exception of type `Expected` and it is caught here by its type.
template <class Expected, class Function>
bool throws(Function function) {
  try {
    function();
  } catch (const Expected& error) {
    return std::string(error.what()).size() > 10;
  } catch (...) {
  }
  return false;
}

}  // namespace

int main() {
  using namespace diffusers;
  const auto bad_config = [] { const DDPMScheduler scheduler({.num_train_timesteps = -1}); };
  const auto missing_file = [] { read_text_file("there/is/no/such/file"); };
  expect(throws<ConfigError>(bad_config), "a ConfigError is caught as what it is");
  expect(throws<FileError>(missing_file), "a FileError is caught as what it is");
  expect(throws<Error>(missing_file), "a FileError is caught as its base");
  expect(throws<std::runtime_error>(missing_file), "a FileError is caught as a standard exception");
  expect(!throws<ConfigError>(missing_file), "a FileError is no ConfigError");

  const std::unique_ptr<Scheduler> scheduler = Scheduler::from_config(DDIMScheduler().config_json());
  expect(typeid(*scheduler) == typeid(DDIMScheduler), "a scheduler has the type of its class");
  expect(dynamic_cast<DDIMScheduler*>(scheduler.get()) != nullptr, "a scheduler is cast to its class");
  expect(dynamic_cast<DDPMScheduler*>(scheduler.get()) == nullptr,
         "a scheduler is not cast to another class");

  // An exception that the program defines passes through the library.
  struct Stop : std::exception {};
  set_log_sink([](LogLevel, std::string_view) { throw Stop(); });
  bool is_caught = false;
  try {
    log_message(LogLevel::kError, "stop");
  } catch (const Stop&) {
    is_caught = true;
  }
  set_log_sink({});
  expect(is_caught, "an exception of a callback passes through the library");

  std::printf("%d claims are wrong\n", g_failures);
  return g_failures == 0 ? 0 : 1;
}

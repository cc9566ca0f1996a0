// Includes one light header and removes a folder. std::filesystem::remove_all crashes if LibTorch's old copy
// of it is found before the compiler's.
#include <cstdio>
#include <filesystem>
#include <fstream>

#include <diffusers/schedulers/ddpm_scheduler.h>

int main() {
  const diffusers::DDPMScheduler scheduler({.num_train_timesteps = 100});

  const std::filesystem::path folder = "consumer-scratch";
  std::filesystem::create_directories(folder / "inner");
  std::ofstream(folder / "inner" / "config.json") << scheduler.config_json();
  const auto removed = std::filesystem::remove_all(folder);

  std::printf("%lld betas, %ju files removed\n", static_cast<long long>(scheduler.betas().numel()),
              static_cast<std::uintmax_t>(removed));
  return scheduler.betas().numel() == 100 && removed == 3 && !std::filesystem::exists(folder) ? 0 : 1;
}

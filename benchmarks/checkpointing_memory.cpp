// Measures the memory that gradient checkpointing saves on the UNet of Stable Diffusion 1.5: the allocated
// memory of one forward and backward pass, without the parameters and their gradients (6.9 GB), with and
// without gradient checkpointing. checkpointing_memory [--size LATENT_SIDE] [--check] A size of 64
// corresponds to images of 512 x 512 pixels. With --check the exit code is 1 unless gradient checkpointing
// halves the memory.

#include <cstdio>
#include <cstdlib>
#include <string>

#include <diffusers/models/unet_2d_condition.h>

#include <torch/types.h>

#include "support/allocation_counter.h"

using namespace diffusers;

namespace {

double megabytes(int64_t bytes) { return static_cast<double>(bytes) / 1e6; }

void print_row(const char* name, const test::ActivationMemory& memory) {
  std::printf("%-28s %14.1f %14.1f\n", name, megabytes(memory.held), megabytes(memory.peak));
}

}  // namespace

int main(int argc, char** argv) try {
  int64_t size = 64;
  bool must_halve = false;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--check") {
      must_halve = true;
    } else if (argument == "--size" && i + 1 < argc && std::atoi(argv[i + 1]) > 0) {
      size = std::atoi(argv[++i]);
    } else {
      std::fprintf(stderr, "usage: checkpointing_memory [--size LATENT_SIDE] [--check]\n");
      return 2;
    }
  }

  torch::manual_seed(0);
  test::AllocationCounter counter;
  UNet2DConditionModel unet({.sample_size = size, .cross_attention_dim = 768});
  unet->train();
  for (const auto& parameter : unet->parameters()) parameter.mutable_grad() = torch::zeros_like(parameter);
  std::printf("Stable Diffusion 1.5's UNet, %lld parameters, batch 1, %lld x %lld latents, float32\n",
              static_cast<long long>(unet->num_parameters()), static_cast<long long>(size),
              static_cast<long long>(size));
  std::printf("parameters and gradients: %.1f MB\n", megabytes(counter.live()));

  const Tensor sample = torch::randn({1, 4, size, size});
  const Tensor context = torch::randn({1, 77, 768});
  const auto measure = [&] {
    return test::measure_activations(
        counter, [&] { return unet->forward(sample, 500, context).sample.square().mean(); });
  };
  const test::ActivationMemory plain = measure();
  unet->enable_gradient_checkpointing();
  const test::ActivationMemory checkpointed = measure();

  const auto ratio = [](int64_t with, int64_t without) {
    return static_cast<double>(with) / static_cast<double>(without);
  };
  const double held = ratio(checkpointed.held, plain.held);
  const double peak = ratio(checkpointed.peak, plain.peak);
  std::printf("%-28s %14s %14s\n", "MB", "after forward", "peak of both");
  print_row("without checkpointing", plain);
  print_row("with checkpointing", checkpointed);
  std::printf("%-28s %14.3f %14.3f\n", "ratio", held, peak);
  return must_halve && (held > 0.5 || peak > 0.5) ? 1 : 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "checkpointing_memory: %s\n", error.what());
  return 1;
}

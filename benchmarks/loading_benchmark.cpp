// Loads the weights of a model folder and prints the time in seconds, the size of the tensors in bytes and
// the peak resident memory. loading.py compares it with Python. loading_benchmark FOLDER
#include <chrono>
#include <cstdio>
#include <exception>

#include <diffusers/io/model_file.h>

#include <ATen/core/Tensor.h>
#include <sys/resource.h>

int main(int argc, char** argv) try {
  if (argc != 2) {
    std::fprintf(stderr, "usage: loading_benchmark FOLDER\n");
    return 2;
  }
  const auto start = std::chrono::steady_clock::now();
  const diffusers::TensorMap tensors = diffusers::load_weights(argv[1]);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::size_t bytes = 0;
  for (const auto& [name, tensor] : tensors) bytes += tensor.nbytes();
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  std::printf("%.4f %zu %lld\n", seconds.count(), bytes, static_cast<long long>(usage.ru_maxrss) * 1024);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "loading_benchmark: %s\n", error.what());
  return 1;
}

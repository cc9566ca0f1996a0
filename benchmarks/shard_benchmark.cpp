// Reads an epoch of a TarDataset of small pictures and prints its speed and memory. Shards that are missing
// in FOLDER are written first. shard_benchmark FOLDER [SAMPLES [SHARDS [THREADS]]]
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/data/loader.h>
#include <diffusers/data/tar_dataset.h>
#include <diffusers/io/files.h>
#include <diffusers/io/image.h>

#include <ATen/ATen.h>
#include <sys/resource.h>
#include <unistd.h>

#include "io/tar_writer.h"

namespace {

using namespace diffusers;

constexpr int64_t kPictures = 256;
constexpr double kMegabyte = 1e6;

double seconds() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

/// Returns the resident memory of this process in MB.
double resident_megabytes() {
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  long long pages = 0;
  if (file == nullptr || std::fscanf(file, "%*d %lld", &pages) != 1) pages = 0;
  if (file != nullptr) std::fclose(file);
  return static_cast<double>(pages) * static_cast<double>(::sysconf(_SC_PAGESIZE)) / kMegabyte;
}

double peak_megabytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024 / kMegabyte;
}

/// Writes shards of pictures of 18 x 18 pixels of noise, about 1 KB each, with captions.
void write_shards(const std::string& folder, int64_t samples, int64_t shards) {
  create_folders(folder);
  const Generator generator = make_generator(0);
  std::vector<std::string> pictures;
  for (int64_t i = 0; i < kPictures; ++i)
    pictures.push_back(encode_png(at::rand({3, 18, 18}, generator, at::TensorOptions())));
  char name[64];
  for (int64_t shard = 0; shard < shards; ++shard) {
    std::snprintf(name, sizeof(name), "data-%06lld.tar", static_cast<long long>(shard));
    if (file_exists(join_path(folder, name))) continue;
    TarWriter writer(join_path(folder, name));
    for (int64_t i = samples * shard / shards; i < samples * (shard + 1) / shards; ++i) {
      std::snprintf(name, sizeof(name), "%09lld", static_cast<long long>(i));
      writer.add(std::string(name) + ".png", pictures[static_cast<std::size_t>(i % kPictures)]);
      writer.add(std::string(name) + ".txt", "picture " + std::to_string(i));
    }
    writer.commit();
  }
}

std::string pattern_of(const std::string& folder, int64_t shards) {
  char pattern[64];
  std::snprintf(pattern, sizeof(pattern), "data-{000000..%06lld}.tar", static_cast<long long>(shards - 1));
  return join_path(folder, pattern);
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 2 || argc > 5) {
    std::fprintf(stderr, "usage: shard_benchmark FOLDER [SAMPLES [SHARDS [THREADS]]]\n");
    return 2;
  }
  const int64_t samples = argc > 2 ? std::atoll(argv[2]) : 1'000'000;
  const int64_t shards = argc > 3 ? std::atoll(argv[3]) : 100;
  const int64_t threads = argc > 4 ? std::atoll(argv[4]) : 1;
  write_shards(argv[1], samples, shards);
  const DataLoaderOptions options{.batch_size = 64, .num_workers = threads};
  const TarDatasetOptions data_options{.resolution = 16, .random_flip = true};
  {
    // What LibTorch allocates at the first batch is not the dataset's.
    DataLoader warm_up(TarDataset(pattern_of(argv[1], shards), data_options), {.batch_size = 64});
    warm_up.next();
  }
  const double before = resident_megabytes();
  double peak = before;
  const double start = seconds();
  DataLoader loader(TarDataset(pattern_of(argv[1], shards), data_options), options);
  int64_t read = 0;
  int64_t batches = 0;
  for (const Batch& batch : loader) {
    read += batch.size();
    if (++batches % 100 == 0) peak = std::max(peak, resident_megabytes());
  }
  const double epoch = seconds() - start;
  std::printf("%lld samples of %lld shards in %.1f s, %.0f a second\n", static_cast<long long>(read),
              static_cast<long long>(shards), epoch, static_cast<double>(read) / epoch);
  std::printf(
      "resident memory: %.1f MB before, at most %.1f MB more during the epoch; peak of the process %.1f MB\n",
      before, peak - before, peak_megabytes());
  const double resumed = seconds();
  loader.restore({.epoch = 0, .index = samples / 2 / 64 * 64});
  loader.next();
  std::printf("a loader continues from the middle of an epoch after %.1f s\n", seconds() - resumed);
  return read == samples ? 0 : 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "shard_benchmark: %s\n", error.what());
  return 1;
}

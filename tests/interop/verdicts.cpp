// The C++ side of mutations.py. It reads a container of many safetensors files, each preceded by its length,
// and prints a line for each: "ok", the number of tensors and a checksum of their content, or "refused" and
// the reason.
//     interop_verdicts CONTAINER
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/tensor.h>
#include <diffusers/io/safetensors.h>

#include <ATen/ATen.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

namespace {

using namespace diffusers;

/// A file in memory that the reader opens by its path.
class MemoryFile {
 public:
  MemoryFile() : descriptor_(::memfd_create("file", 0)) {
    if (descriptor_ < 0) throw FileError("memfd_create failed");
    path_ = "/proc/self/fd/" + std::to_string(descriptor_);
  }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  ~MemoryFile() { ::close(descriptor_); }

  const std::string& path() const { return path_; }
  void hold(const char* bytes, std::size_t count) {
    if (::ftruncate(descriptor_, 0) != 0 ||
        ::pwrite(descriptor_, bytes, count, 0) != static_cast<ssize_t>(count))
      throw FileError("cannot write to memory");
  }

 private:
  int descriptor_;
  std::string path_;
};

void add_bytes(uLong& checksum, const void* bytes, std::size_t count) {
  if (count > 0) checksum = ::crc32(checksum, static_cast<const Bytef*>(bytes), static_cast<uInt>(count));
}

std::string verdict(const std::string& path) {
  try {
    const TensorMap tensors = load_safetensors(path);
    std::vector<std::string> names = tensors.keys();
    std::sort(names.begin(), names.end());
    uLong checksum = 0;
    for (const auto& name : names) {
      const Tensor& tensor = tensors.at(name);
      std::vector<int64_t> shape = tensor.sizes().vec();
      if (tensor.scalar_type() == at::kFloat4_e2m1fn_x2) shape.back() *= 2;
      std::string head = name + '\0' + c10::toString(tensor.scalar_type()) + '\0';
      for (std::size_t i = 0; i < shape.size(); ++i) head += (i == 0 ? "" : ",") + std::to_string(shape[i]);
      head += '\0';
      add_bytes(checksum, head.data(), head.size());
      add_bytes(checksum, tensor.const_data_ptr(), tensor.nbytes());
    }
    char line[64];
    std::snprintf(line, sizeof(line), "ok %zu %08lx", names.size(), static_cast<unsigned long>(checksum));
    return line;
  } catch (const FileError& error) {
    std::string line = std::string("refused ") + error.what();
    std::replace(line.begin(), line.end(), '\n', ' ');
    return line;
  }
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2) {
    std::fprintf(stderr, "usage: interop_verdicts CONTAINER\n");
    return 2;
  }
  std::ifstream container(argv[1], std::ios::binary);
  MemoryFile file;
  std::vector<char> bytes;
  uint64_t size = 0;
  while (container.read(reinterpret_cast<char*>(&size), sizeof(size))) {
    bytes.resize(size);
    if (!container.read(bytes.data(), static_cast<std::streamsize>(size)))
      throw FileError("the container is torn");
    file.hold(bytes.data(), bytes.size());
    std::puts(verdict(file.path()).c_str());
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "interop_verdicts: %s\n", error.what());
  return 1;
}

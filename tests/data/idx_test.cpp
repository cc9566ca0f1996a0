#include <cstdint>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/data/idx.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_equal;
using test::expect_throws_with;
using test::TemporaryFolder;
using test::write_bytes;

std::string big_endian(uint32_t value) {
  return {static_cast<char>(value >> 24), static_cast<char>(value >> 16), static_cast<char>(value >> 8),
          static_cast<char>(value)};
}

std::string idx_bytes(int type, const std::vector<uint32_t>& shape, const std::string& data) {
  std::string out{'\0', '\0', static_cast<char>(type), static_cast<char>(shape.size())};
  for (const uint32_t size : shape) out += big_endian(size);
  return out + data;
}

std::string gzip(const std::string& text) {
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&stream, text.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

TEST(Idx, ReadsEveryTypeBigEndian) {
  const TemporaryFolder folder;
  const std::string path = folder / "x";
  const auto read = [&](int type, const std::string& data) {
    write_bytes(path, idx_bytes(type, {2, 1}, data));
    return read_idx(path);
  };
  const auto expected = [](const std::vector<double>& values, at::ScalarType dtype) {
    return at::tensor(values, at::kDouble).to(dtype).reshape({2, 1});
  };
  expect_equal(read(0x08, "\x01\xff"), expected({1, 255}, at::kByte), "uint8");
  expect_equal(read(0x09, "\x01\xff"), expected({1, -1}, at::kChar), "int8");
  expect_equal(read(0x0B, std::string("\x01\x02\xff\xfe", 4)), expected({258, -2}, at::kShort), "int16");
  expect_equal(read(0x0C, std::string("\0\1\0\0\xff\xff\xff\xff", 8)), expected({65536, -1}, at::kInt),
               "int32");
  expect_equal(read(0x0D, std::string("\x3f\x80\0\0\xc0\0\0\0", 8)), expected({1, -2}, at::kFloat),
               "float32");
  expect_equal(read(0x0E, std::string("\x3f\xf0\0\0\0\0\0\0\xc0\0\0\0\0\0\0\0", 16)),
               expected({1, -2}, at::kDouble), "float64");
}

TEST(Idx, GzipIsToldByItsFirstBytesNotItsName) {
  const TemporaryFolder folder;
  const std::string data(100'000, 'x');
  const std::string file = idx_bytes(8, {100, 1000}, data);
  for (const std::string& bytes : {file, gzip(file), gzip(file) + std::string(512, '\0'),
                                   gzip(file.substr(0, 50)) + gzip(file.substr(50))}) {
    write_bytes(folder / "x", bytes);
    const at::Tensor tensor = read_idx(folder / "x");
    EXPECT_EQ(shape_string(tensor.sizes()), "[100, 1000]");
    EXPECT_EQ(tensor.min().item<int64_t>(), 'x');
  }
  write_bytes(folder / "empty", idx_bytes(8, {0, 28, 28}, ""));
  EXPECT_EQ(shape_string(read_idx(folder / "empty").sizes()), "[0, 28, 28]");
}

TEST(Idx, MalformedFilesAreNamedWithTheNumbers) {
  const TemporaryFolder folder;
  const std::string path = folder / "x";
  const std::string good = idx_bytes(8, {2, 3}, "abcdef");
  struct Case {
    std::string bytes;
    std::string message;
  };
  const std::vector<Case> cases{
      {"", "ends after 0 of the 4 bytes"},
      {"abc", "ends after 3 of the 4 bytes"},
      {"abcd", "the magic number is 61626364"},
      {std::string("\0\1\x08\1", 4), "the magic number is 00010801"},
      {std::string("\0\0\x0A\1", 4), "the magic number is 00000a01"},
      {std::string("\0\0\x08\0", 4), "0 dimensions"},
      {std::string("\0\0\x08\x09", 4), "9 dimensions"},
      {good.substr(0, 10), "within the sizes of its 2 dimensions"},
      {good.substr(0, 17), "2 x 3 elements of 1 bytes take 6 bytes, the file holds 5"},
      {good + "g", "bytes behind the 2 x 3 elements"},
      {idx_bytes(8, {0xffffffff, 0xffffffff, 0xffffffff}, "abc"), "cannot come from"},
      {idx_bytes(8, {0xffffffff, 28, 28}, "abc"),
       "4294967295 x 28 x 28 elements of 1 bytes cannot come from a file of"},
      {gzip(idx_bytes(8, {0xffffffff, 28, 28}, "abc")), "cannot come from"},
      {gzip(idx_bytes(8, {2, 3}, "abcde")), "the file holds 5"},
      {gzip(good + "g"), "bytes behind"},
      {gzip(good).substr(0, 20), "end early"},
      {gzip(good) + "junk", "4 bytes behind the gzip data"},
      {gzip(good) + gzip("x"), "bytes behind the 2 x 3"},
      {gzip(good).replace(10, 1, "\xff"), "damaged"},                     // a block type that does not exist
      {gzip(good).replace(gzip(good).size() - 8, 1, "\xa5"), "damaged"},  // the checksum
      {"\x1f\x8b", "end early"},
  };
  for (const auto& wrong : cases) {
    write_bytes(path, wrong.bytes);
    expect_throws_with<FileError>([&] { read_idx(path); }, wrong.message);
    expect_throws_with<FileError>([&] { read_idx(path); }, path);
  }
  expect_throws_with<FileError>([&] { read_idx(folder / "missing"); }, "No such file");
  expect_throws_with<FileError>([&] { read_idx(folder.path()); }, "found a folder");
}

TEST(Idx, DamagedGzipThrowsFileErrorOrReads) {
  const TemporaryFolder folder;
  const std::string path = folder / "x";
  const std::string good = gzip(idx_bytes(8, {10, 10}, std::string(100, 'a')));
  for (std::size_t i = 0; i < good.size(); ++i) {
    write_bytes(path, good.substr(0, i));
    EXPECT_THROW(read_idx(path), FileError) << i;
    for (int bit = 0; bit < 8; ++bit) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ (1 << bit));
      write_bytes(path, bad);
      try {
        read_idx(path);
      } catch (const FileError&) {
      }
    }
  }
}

}  // namespace
}  // namespace diffusers

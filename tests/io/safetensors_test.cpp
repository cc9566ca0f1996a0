#include <algorithm>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/io/safetensors.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_equal;
using test::expect_throws_with;
using test::golden_path;
using test::TemporaryFolder;
using test::write_bytes;

std::string little_endian(uint64_t value) {
  std::string out;
  for (int i = 0; i < 8; ++i) out += static_cast<char>(value >> (8 * i));
  return out;
}

std::string safetensors_bytes(const std::string& header, std::size_t data) {
  return little_endian(header.size()) + header + std::string(data, '\1');
}

struct HostileCase {
  std::string name;
  std::string bytes;
  std::string message;  ///< empty if Python's safetensors 0.8 and this library accept the file
};

/// The results are those of Python's safetensors 0.8, except for duplicate names, which its README forbids.
std::vector<HostileCase> hostile_cases() {
  const auto one = [](const std::string& fields, std::size_t data = 4) {
    return safetensors_bytes("{\"a\":" + fields + "}", data);
  };
  const auto info = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return R"({"dtype":")" + dtype + R"(","shape":[)" + shape + R"(],"data_offsets":[)" + offsets + "]}";
  };
  const std::string good = info("F32", "1", "0,4");
  const auto nested = [&](std::size_t depth) {
    return one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4],"z":)" + std::string(depth, '[') +
               std::string(depth, ']') + "}");
  };
  std::string hundred_ones = "1";
  for (int i = 1; i < 100; ++i) hundred_ones += ",1";
  return {
      {"good", one(good), ""},
      {"empty file", "", "too few"},
      {"seven bytes", std::string(7, '\0'), "too few"},
      {"no header", std::string(8, '\0'), "not valid JSON"},
      {"header longer than the file", little_endian(100) + "{}", "in a file of"},
      {"huge header", little_endian(100'000'001) + "{}", "at most 100000000"},
      {"header length of all ones", std::string(8, '\xff') + "{}", "at most"},
      {"no tensors", safetensors_bytes("{}", 0), ""},
      {"trailing bytes", one(good, 8), "cover 4 bytes of data, the file holds 8"},
      {"truncated data", one(good, 3), "the file holds 3"},
      {"trailing bytes without tensors", safetensors_bytes("{}", 3), "the file holds 3"},
      {"a list", safetensors_bytes("[]", 0), "expected a JSON object"},
      {"a number", safetensors_bytes("1", 0), "expected a JSON object"},
      {"leading space", safetensors_bytes("  {\"a\":" + good + "}  ", 4), ""},
      {"byte-order mark", safetensors_bytes("\xef\xbb\xbf{}", 0), "byte-order mark"},
      {"trailing NUL", safetensors_bytes(std::string("{}\0\0", 4), 0), "NUL"},
      {"trailing garbage", safetensors_bytes("{} x", 0), "not valid JSON"},
      {"not UTF-8", safetensors_bytes("{\"a\xff\":" + good + "}", 4), "not valid JSON"},
      {"lone surrogate", safetensors_bytes("{\"a\\ud800\":" + good + "}", 4), "not valid JSON"},
      {"escaped NUL in a name", safetensors_bytes("{\"a\\u0000\":" + good + "}", 4), ""},
      {"NaN", one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4],"q":NaN})"), "not valid JSON"},
      {"unknown field", one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4],"z":[1,{"q":2.5}],"y":-1})"),
       ""},
      {"positional entry", one(R"(["F32",[1],[0,4]])"), ""},
      {"positional entry, too long", one(R"(["F32",[1],[0,4],5])"), "more than three"},
      {"positional entry, too short", one(R"(["F32",[1]])"), "lacks"},
      {"positional entry, wrong order", one(R"([[1],"F32",[0,4]])"), "dtype of tensor"},
      {"missing dtype", one(R"({"shape":[1],"data_offsets":[0,4]})"), "lacks"},
      {"missing shape", one(R"({"dtype":"F32","data_offsets":[0,4]})"), "lacks"},
      {"missing offsets", one(R"({"dtype":"F32","shape":[1]})"), "lacks"},
      {"field twice", one(R"({"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]})"), "twice"},
      {"name twice", safetensors_bytes("{\"a\":" + good + ",\"a\":" + good + "}", 4), "twice"},
      {"metadata twice", safetensors_bytes(R"({"__metadata__":{},"__metadata__":{}})", 0), "twice"},
      {"metadata key twice", safetensors_bytes(R"({"__metadata__":{"a":"1","a":"2"}})", 0), "twice"},
      {"metadata null", safetensors_bytes(R"({"__metadata__":null})", 0), ""},
      {"metadata number", safetensors_bytes(R"({"__metadata__":{"a":1}})", 0), "expected a string"},
      {"metadata list", safetensors_bytes(R"({"__metadata__":["a"]})", 0), "is a list"},
      {"metadata nested", safetensors_bytes(R"({"__metadata__":{"a":{}}})", 0), "expected a string"},
      {"entry is a string", one("\"x\""), "is a string"},
      {"entry is null", one("null"), "is null"},
      {"unknown dtype", one(info("F31", "1", "0,4")), "unknown dtype"},
      {"lower-case dtype", one(info("f32", "1", "0,4")), "unknown dtype"},
      {"dtype number", one(R"({"dtype":1,"shape":[1],"data_offsets":[0,4]})"), "dtype of tensor"},
      {"dtype that LibTorch lacks", one(info("F6_E2M3", "4", "0,3"), 3), "LibTorch lacks"},
      {"float dimension", one(info("F32", "1.0", "0,4")), "shape of tensor"},
      {"negative dimension", one(info("F32", "-1", "0,4")), "shape of tensor"},
      {"boolean dimension", one(info("F32", "true", "0,4")), "shape of tensor"},
      {"nested shape", one(info("F32", "[1]", "0,4")), "shape of tensor"},
      {"shape is a number", one(R"({"dtype":"F32","shape":1,"data_offsets":[0,4]})"), "shape of tensor"},
      {"dimension of 2^64", one(info("F32", "18446744073709551616", "0,4")), "shape of tensor"},
      {"dimension of 2^63", one(info("F32", "0,9223372036854775808", "0,0"), 0), "dimension of"},
      {"product wraps to 4", one(info("U8", "4294967296,4294967296,4", "0,4")), "64 bits"},
      {"product wraps before zero", one(info("F32", "9223372036854775807,4,0", "0,0"), 0), "64 bits"},
      {"byte count wraps", one(info("F64", "2305843009213693952", "0,4")), "64 bits"},
      {"zero times large", one(info("F32", "0,9223372036854775807", "0,0"), 0), ""},
      {"shape larger than span", one(info("F32", "2", "0,4")), "spans 4 bytes"},
      {"shape smaller than span", one(info("F32", "1", "0,8"), 8), "spans 8 bytes"},
      {"one offset", one(info("F32", "1", "4")), "1 data_offsets"},
      {"three offsets", one(info("F32", "1", "0,4,4")), "more than two"},
      {"negative offset", one(info("F32", "1", "-0,4")), "data_offsets"},
      {"end before begin", one(info("F32", "1", "4,0")), "before it begins"},
      {"offset past the end", one(info("F32", "1", "0,400")), "spans 400"},
      {"begins late", one(info("F32", "1", "4,8"), 8), "no tensor covers"},
      {"hole", safetensors_bytes("{\"a\":" + good + ",\"b\":" + info("F32", "1", "8,12") + "}", 12),
       "no tensor covers"},
      {"overlap", safetensors_bytes("{\"a\":" + good + ",\"b\":" + info("F32", "1", "2,6") + "}", 6),
       "inside the tensor"},
      {"same span", safetensors_bytes("{\"a\":" + good + ",\"b\":" + good + "}", 4), "inside the tensor"},
      {"misaligned",
       safetensors_bytes("{\"a\":" + info("U8", "1", "0,1") + ",\"b\":" + info("F32", "1", "1,5") + "}", 5),
       ""},
      {"half a byte", one(info("F4", "3", "0,1"), 1), "whole byte"},
      {"hundred dimensions", one(info("F32", hundred_ones, "0,4")), ""},
      {"125 levels", nested(125), ""},
      {"126 levels", nested(126), "deeper than 127"},
      {"depth bomb", nested(1'000'000), "deeper than 127"},
      {"unclosed depth bomb", safetensors_bytes(std::string(1'000'000, '['), 0), "expected a JSON object"},
  };
}

TEST(Safetensors, SayWhyATensorCannotBePutOnADevice) {
  const TemporaryFolder folder;
  save_safetensors({{"a", at::ones({2})}}, folder / "file.safetensors");
  const at::Device device(at::kCUDA, 63);
  expect_throws_with<Error>([&] { load_safetensors(folder / "file.safetensors", {.device = device}); },
                            "cannot put tensor \"a\" on cuda:63");
}

TEST(Safetensors, LoadsEveryDtypeThatPythonWrites) {
  const TensorMap tensors = load_safetensors(golden_path("io_dtypes.safetensors"), {.device = at::kCPU});
  EXPECT_EQ(tensors.size(), 42U);
  EXPECT_EQ(tensors.begin()->first, "uint64.a");
  EXPECT_EQ(tensors.at("float8_e4m3fn.b").scalar_type(), at::kFloat8_e4m3fn);
  EXPECT_EQ(tensors.at("complex64.a").scalar_type(), at::kComplexFloat);
  EXPECT_EQ(tensors.at("float4").scalar_type(), at::kFloat4_e2m1fn_x2);
  EXPECT_EQ(shape_string(tensors.at("float4").sizes()), "[2, 3]");
  EXPECT_EQ(tensors.at("scalar").dim(), 0);
  EXPECT_EQ(tensors.at("scalar").item<float>(), 2.5F);
  EXPECT_EQ(shape_string(tensors.at("empty").sizes()), "[0, 4]");
  EXPECT_TRUE(tensors.contains("na\"me \\ \n \x7f \u00e9 \U0001f600"));
  expect_equal(tensors.at("float16.b"), tensors.at("float16.b").to(at::kFloat).to(at::kHalf), "float16");
}

TEST(Safetensors, WritesTheBytesThatPythonWrites) {
  const TemporaryFolder folder;
  for (const std::string name : {"io_dtypes.safetensors", "io/whole/diffusion_pytorch_model.safetensors"}) {
    const TensorMap tensors = load_safetensors(golden_path(name));
    // The order of insertion must not matter.
    TensorMap reversed;
    auto names = tensors.keys();
    std::reverse(names.begin(), names.end());
    for (const auto& key : names) reversed.insert(key, tensors.at(key));
    save_safetensors(reversed, folder / "out.safetensors", {{"format", "pt"}});
    EXPECT_EQ(read_text_file(folder / "out.safetensors"), read_text_file(golden_path(name))) << name;
  }
}

TEST(Safetensors, EmptyMapsAndMetadataRoundTrip) {
  const TemporaryFolder folder;
  const std::string path = folder / "x.safetensors";
  save_safetensors({}, path);
  EXPECT_EQ(read_text_file(path), little_endian(8) + "{}      ");
  const std::map<std::string, std::string> metadata{
      {"a", "1"}, {"b \"q\"", "line\nbreak \u00e9"}, {"empty", ""}};
  save_safetensors({{"t", at::arange(3)}}, path, metadata);
  const SafetensorsFile file(path);
  EXPECT_EQ(file.metadata(), metadata);
  EXPECT_EQ(file.names(), std::vector<std::string>{"t"});
  EXPECT_EQ(file.info("t").dtype, at::kLong);
  EXPECT_EQ(file.info("t").shape, std::vector<int64_t>{3});
  EXPECT_EQ(file.info("t").nbytes, 24U);
  expect_throws_with<FileError>([&] { (void)file.get("u"); }, "there is no tensor \"u\"");
}

TEST(Safetensors, TensorsOfAnyLayoutAreWritten) {
  const TemporaryFolder folder;
  const at::Tensor base = at::arange(24, at::kFloat).reshape({4, 6});
  const at::Tensor complex = at::complex(base, base + 1);
  save_safetensors({{"transposed", base.t()},
                    {"strided", base.slice(1, 0, 6, 2)},
                    {"shared", base},
                    {"view", base[1]},
                    {"expanded", at::ones({1}).expand({5})},
                    {"conjugated", complex.conj()},
                    {"grad", at::ones({2}).requires_grad_()}},
                   folder / "x.safetensors");
  const TensorMap tensors = load_safetensors(folder / "x.safetensors");
  expect_equal(tensors.at("transposed"), base.t(), "transposed");
  expect_equal(tensors.at("strided"), base.slice(1, 0, 6, 2), "strided");
  expect_equal(tensors.at("shared"), base, "shared");
  expect_equal(tensors.at("view"), base[1], "view");
  expect_equal(tensors.at("expanded"), at::ones({5}), "expanded");
  expect_equal(at::imag(tensors.at("conjugated")), -base - 1, "conjugated");
  EXPECT_FALSE(tensors.at("grad").requires_grad());
}

TEST(Safetensors, DtypeConvertsFloatingTensorsOnly) {
  const TemporaryFolder folder;
  save_safetensors({{"half", at::ones({2}, at::kHalf)}, {"ids", at::arange(3)}}, folder / "x.safetensors");
  const TensorMap tensors = load_safetensors(folder / "x.safetensors", {.dtype = at::kDouble});
  EXPECT_EQ(tensors.at("half").scalar_type(), at::kDouble);
  EXPECT_EQ(tensors.at("ids").scalar_type(), at::kLong);
}

TEST(Safetensors, WhatTheFormatCannotHoldIsRefused) {
  const TemporaryFolder folder;
  const std::string path = folder / "x.safetensors";
  const auto save = [&](const std::string& name, const at::Tensor& tensor) {
    return [&, name, tensor] { save_safetensors({{name, tensor}}, path); };
  };
  expect_throws_with<TensorError>(save("t", at::Tensor()), "tensor \"t\" is undefined");
  expect_throws_with<TensorError>(save("t", at::ones({2}, at::kComplexDouble)), "cannot hold");
  expect_throws_with<TensorError>(save("t", at::eye(2).to_sparse()), "sparse");
  expect_throws_with<TensorError>(save("t", at::empty({2}, at::device(at::kMeta))), "without data");
  expect_throws_with<TensorError>(save("__metadata__", at::ones({2})), "cannot be named");
  expect_throws_with<TensorError>(save("\xff", at::ones({2})), "not valid UTF-8");
  EXPECT_TRUE(list_folder(folder.path()).empty());
}

TEST(Safetensors, HostileFilesGetThePythonVerdict) {
  const TemporaryFolder folder;
  const std::string path = folder / "x.safetensors";
  for (const auto& hostile : hostile_cases()) {
    SCOPED_TRACE(hostile.name);
    write_bytes(path, hostile.bytes);
    if (hostile.message.empty()) {
      EXPECT_NO_THROW(load_safetensors(path));
    } else {
      expect_throws_with<FileError>([&] { load_safetensors(path); }, hostile.message);
      expect_throws_with<FileError>([&] { load_safetensors(path); }, path);
    }
  }
}

TEST(Safetensors, LargeTensorsAreReadInParts) {
  const TemporaryFolder folder;
  const std::string path = folder / "x.safetensors";
  const at::Tensor values = at::arange(9'000'001, at::kInt);
  save_safetensors({{"small", at::ones({3}, at::kByte)}, {"t", values}}, path);
  const int threads = at::get_num_threads();
  for (const int count : {1, 3}) {
    at::set_num_threads(count);
    EXPECT_TRUE(at::equal(load_safetensors(path).at("t"), values)) << count;
  }
  at::set_num_threads(threads);
}

TEST(Safetensors, AFileThatShrinksWhileItIsReadIsRefused) {
  const TemporaryFolder folder;
  const std::string path = folder / "x.safetensors";
  save_safetensors({{"t", at::ones({5'000'000})}}, path);
  const SafetensorsFile file(path);
  ASSERT_EQ(::truncate(path.c_str(), 1'000'000), 0);
  expect_throws_with<FileError>([&] { (void)file.get("t"); }, "the file ends at byte 1000000");
}

TEST(Safetensors, DamagedFilesThrowFileErrorOrLoad) {
  const TemporaryFolder folder;
  const std::string path = folder / "x.safetensors";
  const std::string good = read_text_file(golden_path("io_dtypes.safetensors"));
  for (std::size_t size = 0; size < good.size(); size += size < 64 ? 1 : 61) {
    write_bytes(path, std::string_view(good).substr(0, size));
    EXPECT_THROW(load_safetensors(path), FileError) << size;
  }
  for (std::size_t i = 0; i < good.size(); i += i < 400 ? 1 : 17) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ (i % 3 == 0 ? 0x01 : i % 3 == 1 ? 0x20 : 0x80));
    write_bytes(path, bad);
    try {
      load_safetensors(path);
    } catch (const FileError&) {
    }
  }
}

TEST(Safetensors, PathsThatAreNoFilesAreRefused) {
  const TemporaryFolder folder;
  expect_throws_with<FileError>([&] { load_safetensors(folder / "missing"); }, "No such file");
  expect_throws_with<FileError>([&] { load_safetensors(folder.path()); }, "found a folder");
  expect_throws_with<FileError>([&] { load_safetensors("/dev/null"); }, "not a regular file");
  expect_throws_with<FileError>([&] { load_safetensors(""); }, "empty");
  expect_throws_with<FileError>([&] { load_safetensors(std::string("a\0b", 3)); }, "NUL");
}

}  // namespace
}  // namespace diffusers

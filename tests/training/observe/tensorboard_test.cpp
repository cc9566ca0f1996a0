#include <cmath>
#include <csignal>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include <diffusers/io/image.h>
#include <diffusers/training/tensorboard.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include "support/golden.h"
#include "training/observe/protobuf.h"
#include "training/observe/record_file.h"

namespace diffusers {
namespace {

using test::expect_throws_with;

/// A reader of event files, implemented from the description of the format and independent of the writer.
class EventReader {
 public:
  explicit EventReader(const std::string& path) : bytes_(read_text_file(path)) {}

  /// Reads the data of the next record. Returns false at the end or before an incomplete record.
  bool next(std::string& data) {
    if (bytes_.size() - at_ < 12) return false;
    const auto size = number<uint64_t>(at_);
    if (number<uint32_t>(at_ + 8) != masked(crc32c(bytes_.substr(at_, 8)))) return false;
    if (bytes_.size() - at_ - 12 < size + 4) return false;
    data = bytes_.substr(at_ + 12, size);
    if (number<uint32_t>(at_ + 12 + size) != masked(crc32c(data))) return false;
    at_ += size + 16;
    return true;
  }
  bool is_at_end() const { return at_ == bytes_.size(); }

 private:
  template <class Number>
  Number number(std::size_t at) const {
    Number value;
    std::memcpy(&value, bytes_.data() + at, sizeof(value));
    return value;
  }
  static uint32_t masked(uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xa282ead8U; }

  std::string bytes_;
  std::size_t at_ = 0;
};

std::vector<std::string> events_of(const std::string& path) {
  EventReader reader(path);
  std::vector<std::string> events;
  for (std::string data; reader.next(data);) events.push_back(data);
  EXPECT_TRUE(reader.is_at_end()) << path;
  return events;
}

bool holds_bytes(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

TEST(Crc32c, MatchesTheVectorsOfRfc3720) {
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aaU);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43U);
  std::string ascending(32, '\0');
  for (std::size_t i = 0; i < 32; ++i) ascending[i] = static_cast<char>(i);
  EXPECT_EQ(crc32c(ascending), 0x46dd794eU);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283U);
  EXPECT_EQ(crc32c(""), 0U);
}

TEST(ProtoMessage, WritesFieldsAsTheEncodingSays) {
  const auto bytes = [](std::initializer_list<int> values) {
    std::string text;
    for (const int value : values) text += static_cast<char>(value);
    return text;
  };
  EXPECT_EQ(ProtoMessage().integer(1, 150).bytes(), bytes({0x08, 0x96, 0x01}));
  EXPECT_EQ(ProtoMessage().integer(2, -1).bytes(), bytes({0x10}) + std::string(9, '\xff') + bytes({0x01}));
  EXPECT_EQ(ProtoMessage().text(2, "testing").bytes(), bytes({0x12, 0x07}) + "testing");
  EXPECT_EQ(ProtoMessage().message(3, ProtoMessage().integer(1, 150)).bytes(),
            bytes({0x1a, 0x03, 0x08, 0x96, 0x01}));
  EXPECT_EQ(ProtoMessage().real32(2, 1.0F).bytes(), bytes({0x15, 0, 0, 0x80, 0x3f}));
  EXPECT_EQ(ProtoMessage().real(1, 1.0).bytes(), bytes({0x09, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f}));
  EXPECT_EQ(ProtoMessage().reals(16, {}).bytes(), bytes({0x82, 0x01, 0x00}));
}

TEST(TensorBoardWriter, WritesARecordForEachEntry) {
  const test::TemporaryFolder folder;
  TensorBoardWriter writer(folder / "logs");
  writer.add_scalar("loss/train", 0.5, 7);
  writer.add_text("note", "**grüß**", 7);
  writer.flush();
  const std::vector<std::string> events = events_of(writer.path());
  ASSERT_EQ(events.size(), 3U);
  EXPECT_TRUE(holds_bytes(events[0], "brain.Event:2"));
  const ProtoMessage value = ProtoMessage().text(1, "loss/train").real32(2, 0.5F);
  EXPECT_TRUE(
      events[1].ends_with(ProtoMessage().integer(2, 7).message(5, ProtoMessage().message(1, value)).bytes()));
  EXPECT_TRUE(holds_bytes(events[2], "**grüß**"));
}

TEST(TensorBoardWriter, NamesNewFilesSoThatTheySortLast) {
  const test::TemporaryFolder folder;
  // A clock that was set back.
  test::write_bytes(folder / "events.out.tfevents.9000000000.host.1", "");
  test::write_bytes(folder / "events.out.tfevents.mine", "");
  std::vector<std::string> expected = list_folder(folder.path());
  for (int i = 0; i < 3; ++i)
    expected.insert(expected.end() - 1, base_name(TensorBoardWriter(folder.path()).path()));
  EXPECT_EQ(list_folder(folder.path()), expected);
}

TEST(TensorBoardWriter, BeginsAResumedTrainingWithItsStep) {
  const test::TemporaryFolder folder;
  const std::vector<std::string> events = events_of(TensorBoardWriter(folder.path(), 31).path());
  ASSERT_EQ(events.size(), 2U);
  EXPECT_TRUE(
      events[1].ends_with(ProtoMessage().integer(2, 31).message(7, ProtoMessage().integer(1, 1)).bytes()));
}

TEST(TensorBoardWriter, CountsEachValueOfAHistogramOnce) {
  const test::TemporaryFolder folder;
  TensorBoardWriter writer(folder.path());
  writer.add_histogram("one", at::full({3}, 2.0, at::kHalf), 0);
  // For the values 0, 1, ..., 64, the first bin contains both of its edges, and each other bin only its upper
  // edge.
  writer.add_histogram("many", at::arange(65, at::kFloat).view({5, 13}), 0);
  const std::vector<std::string> events = events_of(writer.path());
  const ProtoMessage one =
      ProtoMessage().real(1, 2).real(2, 2).real(3, 3).real(4, 6).real(5, 12).reals(6, {2}).reals(7, {3});
  EXPECT_TRUE(holds_bytes(events[1], one.bytes()));
  std::vector<double> limits;
  for (int i = 1; i <= 64; ++i) limits.push_back(i);
  std::vector<double> counts(64, 1.0);
  counts[0] = 2;
  const ProtoMessage many = ProtoMessage().real(1, 0).real(2, 64).real(3, 65).real(4, 2080).real(5, 89440);
  EXPECT_TRUE(holds_bytes(events[2], many.bytes()));
  EXPECT_TRUE(holds_bytes(events[2], ProtoMessage().reals(6, limits).reals(7, counts).bytes()));
}

TEST(TensorBoardWriter, HoldsTheFileThatSaveImageWrites) {
  const test::TemporaryFolder folder;
  const Tensor image = at::arange(36, at::kFloat).view({3, 3, 4}) / 35;
  TensorBoardWriter writer(folder.path());
  writer.add_image("sample", image, 1);
  save_image(image, folder / "sample.png");
  EXPECT_EQ(encode_png(image), read_text_file(folder / "sample.png"));
  const ProtoMessage expected =
      ProtoMessage().integer(1, 3).integer(2, 4).integer(3, 3).text(4, encode_png(image));
  EXPECT_TRUE(holds_bytes(events_of(writer.path()).back(), expected.bytes()));
}

TEST(TensorBoardWriter, ShowsBytesAsTheyAre) {
  const test::TemporaryFolder folder;
  const Tensor bytes = at::arange(0, 240, 20, at::kByte).view({1, 3, 4});
  TensorBoardWriter writer(folder.path());
  writer.add_image("bytes", bytes, 1);
  save_image(bytes.to(at::kFloat) / 255, folder / "same.png");
  EXPECT_TRUE(holds_bytes(events_of(writer.path()).back(), read_text_file(folder / "same.png")));
}

TEST(TensorBoardWriter, ShowsWhatIsNotFinite) {
  const test::TemporaryFolder folder;
  TensorBoardWriter writer(folder.path());
  const double infinity = std::numeric_limits<double>::infinity();
  for (const double value : {infinity, -infinity}) {
    writer.add_scalar("loss", value, 1);
    EXPECT_TRUE(events_of(writer.path())
                    .back()
                    .ends_with(ProtoMessage().text(1, "loss").real32(2, static_cast<float>(value)).bytes()));
  }
  writer.add_scalar("loss", std::nan(""), 2);
  const std::string last = events_of(writer.path()).back();
  float shown = 0;
  std::memcpy(&shown, last.data() + last.size() - sizeof(shown), sizeof(shown));
  EXPECT_TRUE(std::isnan(shown));
}

TEST(TensorBoardWriter, RefusesWhatCannotBeShown) {
  const test::TemporaryFolder folder;
  TensorBoardWriter writer(folder.path());
  expect_throws_with<ConfigError>([&] { writer.add_scalar("", 1, 0); },
                                  "tag of a TensorBoard entry is empty");
  expect_throws_with<ConfigError>([&] { writer.add_scalar("a\xff", 1, 0); }, "is not UTF-8");
  expect_throws_with<ConfigError>([&] { writer.add_text("a", "b\xff", 0); }, "the text \"a\" is not UTF-8");
  expect_throws_with<TensorError>(
      [&] {
        writer.add_image("x", at::zeros({4, 2, 2}), 0);
      },
      "the image \"x\" is float32 [4, 2, 2]");
  expect_throws_with<TensorError>([&] { writer.add_image("x", Tensor(), 0); }, "an undefined tensor");
  const Tensor holed = at::tensor({1.0, std::numeric_limits<double>::infinity()});
  expect_throws_with<TensorError>([&] { writer.add_histogram("conv.weight", holed, 0); },
                                  "the histogram \"conv.weight\"");
  expect_throws_with<TensorError>([&] { writer.add_histogram("h", at::ones({2}, at::kLong), 0); },
                                  "int64 [2]");
  expect_throws_with<TensorError>([&] { writer.add_histogram("h", at::ones({0}), 0); }, "not empty");
  EXPECT_EQ(events_of(writer.path()).size(), 1U);
}

TEST(TensorBoardWriter, SaysWhichFileCannotBeWrittenAndKeepsItWhole) {
  const test::TemporaryFolder folder;
  test::write_bytes(folder / "file", "");
  expect_throws_with<FileError>([&] { TensorBoardWriter(folder / "file"); }, "file");

  TensorBoardWriter writer(folder / "logs");
  writer.add_scalar("loss", 1, 1);
  // As on a full disk, the beginning of a record is written and the rest fails.
  struct rlimit before {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const struct rlimit small { 1000, before.rlim_max };
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  expect_throws_with<FileError>([&] { writer.add_text("note", std::string(2000, 'a'), 2); },
                                "File too large");
  expect_throws_with<FileError>([&] { writer.add_text("note", std::string(2000, 'a'), 2); }, writer.path());
  EXPECT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  writer.add_scalar("loss", 0.5, 3);
  EXPECT_EQ(events_of(writer.path()).size(), 3U);
}

TEST(RecordFile, ARecordCutShortLeavesTheOnesBefore) {
  const test::TemporaryFolder folder;
  const std::string whole = framed_record("first") + framed_record("second");
  for (std::size_t length = framed_record("first").size(); length < whole.size(); ++length) {
    test::write_bytes(folder / "torn", whole.substr(0, length));
    EventReader reader(folder / "torn");
    std::string data;
    ASSERT_TRUE(reader.next(data));
    EXPECT_EQ(data, "first");
    EXPECT_FALSE(reader.next(data)) << length;
  }
}

}  // namespace
}  // namespace diffusers

#include "io/tar_reader.h"

#include <string>
#include <vector>

#include <diffusers/core/error.h>

#include <gtest/gtest.h>
#include <zlib.h>

#include "io/tar_writer.h"
#include "support/golden.h"
#include "support/tar_bytes.h"

namespace diffusers {
namespace {

using test::expect_throws_with;
using test::tar_archive;
using test::tar_member;
using test::TarEntry;
using test::TemporaryFolder;

/// Returns the names of the members. Reads the data of each, if asked.
std::vector<std::string> read_names(TarReader reader, bool reads_data) {
  std::vector<std::string> names;
  while (const auto member = reader.next()) {
    names.push_back(member->name);
    if (reads_data) {
      EXPECT_EQ(reader.read(1 << 20).size(), member->size);
    }
  }
  EXPECT_FALSE(reader.next());
  return names;
}

std::string gzipped(const std::string& bytes) {
  const TemporaryFolder folder;
  gzFile file = ::gzopen((folder / "x.gz").c_str(), "wb");
  ::gzwrite(file, bytes.data(), static_cast<unsigned>(bytes.size()));
  ::gzclose(file);
  return read_text_file(folder / "x.gz");
}

/// Checks that reading an archive fails, whether the data of the members is read or not.
void expect_refused(const std::string& bytes, std::string_view message) {
  const TemporaryFolder folder;
  test::write_bytes(folder / "a.tar", bytes);
  for (const bool reads_data : {true, false}) {
    expect_throws_with<FileError>([&] { read_names(TarReader(folder / "a.tar"), reads_data); }, message);
    expect_throws_with<FileError>([&] { read_names(TarReader(bytes, "in memory"), reads_data); }, message);
  }
}

TEST(TarReader, ReadsFilesAndSkipsFolders) {
  const std::string bytes = tar_archive({{.name = "sub/", .type = '5'},
                                         {.name = "./sub/a.txt", .data = "one"},
                                         {.name = "b.bin", .data = std::string(200'000, 'x')},
                                         {.name = "empty"}});
  const TemporaryFolder folder;
  test::write_bytes(folder / "a.tar", bytes);
  test::write_bytes(folder / "a.tar.gz", gzipped(bytes));
  for (const char* name : {"a.tar", "a.tar.gz"}) {
    TarReader reader(folder / name);
    EXPECT_EQ(reader.path(), folder / name);
    auto member = reader.next();
    EXPECT_EQ(member->name, "sub/a.txt");
    EXPECT_EQ(reader.read(3), "one");
    member = reader.next();
    EXPECT_EQ(member->offset, 512U * 4);
    EXPECT_EQ(member->size, 200'000U);
    EXPECT_EQ(reader.read(200'000), std::string(200'000, 'x'));
    EXPECT_EQ(reader.next()->name, "empty");
    EXPECT_EQ(reader.read(0), "");
    EXPECT_FALSE(reader.next());
    for (const bool reads_data : {true, false})
      EXPECT_EQ(read_names(TarReader(folder / name), reads_data),
                (std::vector<std::string>{"sub/a.txt", "b.bin", "empty"}));
  }
  EXPECT_TRUE(read_names(TarReader(tar_archive({}), "memory"), true).empty());
}

TEST(TarReader, ReadsTheWritersArchives) {
  const TemporaryFolder folder;
  const std::string name = std::string(150, 'n') + ".txt";
  for (const char* file : {"a.tar", "b.tar"}) {
    TarWriter writer(folder / file);
    writer.add("first", "1");
    writer.add(name, std::string(70'000, '2'));
    writer.add("empty", "");
    EXPECT_FALSE(file_exists(folder / file));
    writer.commit();
  }
  EXPECT_EQ(read_text_file(folder / "a.tar"), read_text_file(folder / "b.tar"));
  TarReader reader(folder / "a.tar");
  reader.next();
  EXPECT_EQ(reader.read(1), "1");
  EXPECT_EQ(reader.next()->name, name);
  EXPECT_EQ(reader.read(70'000), std::string(70'000, '2'));
  { TarWriter given_up(folder / "c.tar"); }
  EXPECT_EQ(list_folder(folder.path()), (std::vector<std::string>{"a.tar", "b.tar"}));
  expect_throws_with<FileError>([&] { TarWriter writer(folder / "none/c.tar"); },
                                "none/c.tar: cannot create");
}

TEST(TarReader, TruncatedArchivesAreRefused) {
  const std::string first = tar_member({.name = "first.txt", .data = std::string(700, '1')});
  const std::string bytes = first + tar_archive({{.name = "second.txt", .data = std::string(700, '2')}});
  EXPECT_EQ(read_names(TarReader(bytes, "x"), false).size(), 2U);
  for (const std::size_t size : {first.size() - 600, first.size() + 100})
    expect_refused(bytes.substr(0, size), "member \"first.txt\"");
  for (const std::size_t size : {first.size() + 512, first.size() + 700})
    expect_refused(bytes.substr(0, size), "member \"second.txt\"");
  // Complete members, but no end mark.
  expect_refused(bytes.substr(0, first.size()),
                 "behind member \"first.txt\": the archive ends without its end mark");
  expect_refused(bytes.substr(0, bytes.size() - 1024),
                 "member \"second.txt\": the archive ends without its end mark");
  expect_refused("", "expected a complete tar archive");
  expect_refused("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 1\n",
                 "Git LFS pointer");
  expect_refused(std::string(2000, 'x'), "expected a complete tar archive");
  const std::string packed = gzipped(bytes);
  expect_refused(packed.substr(0, packed.size() - 30), "expected a complete tar archive");
  std::string damaged = bytes;
  damaged[first.size() + 3] = '!';
  expect_refused(damaged, "member \"first.txt\"");
}

TEST(TarReader, HostileMembersAreRefused) {
  const auto refuse = [](const TarEntry& entry, std::string_view message) {
    expect_refused(tar_archive({{.name = "good"}, entry}), message);
  };
  for (const char* name : {"../x.jpg", "a/../../x.jpg", "..", "/etc/passwd", "./../x"})
    refuse({.name = name}, "has a name that leads out of the archive");
  refuse({.name = "l.jpg", .type = '2', .link = "/etc/passwd"}, "member \"l.jpg\" is a symbolic link");
  refuse({.name = "h.jpg", .type = '1', .link = "good"}, "member \"h.jpg\" is a hard link");
  refuse({.name = "c.jpg", .type = '3'}, "member \"c.jpg\" is a device");
  refuse({.name = "b.jpg", .type = '4'}, "member \"b.jpg\" is a device");
  refuse({.name = "p.jpg", .type = '6'}, "member \"p.jpg\" is a named pipe");
  // The header announces 8 GiB.
  refuse({.name = "huge.jpg", .data = "x", .announced = 077777777777}, "huge.jpg");
  const std::string huge = tar_member({.name = "huge.jpg", .data = "x", .announced = 077777777777});
  TarReader reader(huge, "shard");
  ASSERT_TRUE(reader.next());
  expect_throws_with<FileError>([&] { reader.read(1 << 20); },
                                "shard: member \"huge.jpg\" has 8589934591 bytes, expected at most 1048576");
}

TEST(TarReader, SparseFilesAreRefused) {
  // The old format of GNU tar: the header lists the blocks of data.
  std::string header = test::tar_header({.name = "s.jpg", .type = 'S', .announced = 512});
  const auto put = [&](std::size_t at, std::string_view text) { header.replace(at, text.size(), text); };
  header.replace(257, 8, std::string("ustar  ") + '\0');
  put(386, "00000200000");  // offset of the only block of data
  put(398, "00000001000");  // its size
  put(483, "00000201000");  // size of the file
  put(148, "        ");
  unsigned sum = 0;
  for (const char c : header) sum += static_cast<unsigned char>(c);
  char text[8];
  std::snprintf(text, sizeof(text), "%06o", sum);
  header.replace(148, 7, std::string(text) + '\0');
  expect_refused(header + std::string(512, 'x') + std::string(1024, '\0'), "member \"s.jpg\" is sparse");
}

TEST(TarReader, OtherFilesAreRefused) {
  const TemporaryFolder folder;
  expect_throws_with<FileError>([&] { TarReader reader(folder / "none.tar"); }, "none.tar: cannot open");
  expect_throws_with<FileError>([&] { TarReader reader(folder.path()); }, "expected a file, found a folder");
  expect_throws_with<FileError>([&] { TarReader reader("/dev/zero"); }, "not a regular file");
}

}  // namespace
}  // namespace diffusers

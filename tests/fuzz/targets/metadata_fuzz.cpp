// The metadata of an image folder: JSON lines and CSV.
#include <cstdint>
#include <string>

#include <diffusers/core/error.h>

#include "data/metadata_reader.h"
#include "fuzz.h"

namespace {

using namespace diffusers;

template <class Read>
void read_all(const Read& read, std::string_view text) {
  int64_t last_line = 0;
  try {
    read(text, "metadata", [&](const MetadataRow& row) {
      fuzz::check(row.line() > last_line, "lines follow each other");
      last_line = row.line();
      try {
        fuzz::check(!row.is_csv() || !row.has("text") || row.texts("text").size() == 1, "a cell is one text");
        row.text("file_name");
      } catch (const FileError& error) {
        fuzz::check(std::string_view(error.what()).starts_with("metadata: line "), "errors name the line");
      }
    });
  } catch (const FileError& error) {
    fuzz::check(std::string_view(error.what()).starts_with("metadata: "), "errors name the file");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  read_all(read_metadata_jsonl, fuzz::text_of(data, size));
  read_all(read_metadata_csv, fuzz::text_of(data, size));
  return 0;
}

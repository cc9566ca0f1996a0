#pragma once

// Reads the rows of a metadata.jsonl or metadata.csv. It does not use LibTorch, so that a fuzz target can
// link it alone.

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace diffusers {
inline namespace internal {

/// One row: the values of its columns. In a CSV file every value is a string.
class MetadataRow {
 public:
  /// @param where path of the file, for error messages
  /// @param line number of the first line of the row, from 1
  /// @param values a JSON object
  MetadataRow(std::string_view where, int64_t line, Json values, bool is_csv)
      : where_(where), line_(line), values_(std::move(values)), is_csv_(is_csv) {}

  /// Names a cell for error messages: `a/metadata.csv: line 3: column "text"`.
  std::string place(std::string_view column) const;
  int64_t line() const { return line_; }
  bool is_csv() const { return is_csv_; }
  /// Returns true if the row has a value in the column. JSON's null is not a value.
  bool has(std::string_view column) const;
  /// @throws FileError naming the cell if there is no value
  const Json& value(std::string_view column) const;
  /// @throws FileError naming the cell if its value is not a string
  std::string text(std::string_view column) const;
  /// Returns a list of strings. A single string is returned as a list of one element.
  /// @throws FileError naming the cell if its value is neither a string nor a list of one or more strings
  std::vector<std::string> texts(std::string_view column) const;

 private:
  std::string_view where_;
  int64_t line_;
  Json values_;
  bool is_csv_;
};

using VisitRow = std::function<void(const MetadataRow&)>;

/// Reads JSON objects, one on each line. Empty lines and a byte-order mark are skipped.
/// @throws FileError naming `where` and the line
void read_metadata_jsonl(std::string_view text, std::string_view where, const VisitRow& visit);

/// Reads CSV (RFC 4180) in UTF-8 whose first row names the columns. Line ends are LF, CRLF or CR. Empty lines
/// and a byte-order mark are skipped.
/// @throws FileError naming `where` and the line
void read_metadata_csv(std::string_view text, std::string_view where, const VisitRow& visit);

}  // namespace internal
}  // namespace diffusers

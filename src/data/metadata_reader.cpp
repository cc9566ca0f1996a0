#include "data/metadata_reader.h"

#include <algorithm>
#include <utility>

#include "core/foreign_content.h"
#include "core/require.h"
#include "core/utf8.h"

namespace diffusers {
inline namespace internal {
namespace {

std::string_view without_mark(std::string_view text) {
  constexpr std::string_view kMark = "\xef\xbb\xbf";
  if (text.starts_with(kMark)) text.remove_prefix(kMark.size());
  return text;
}

/// Reads the records of a CSV text.
class CsvReader {
 public:
  CsvReader(std::string_view text, std::string_view where) : text_(text), where_(where) {}

  /// Reads the next record that is not an empty line.
  /// @return false at the end
  bool next(std::vector<std::string>& fields) {
    while (position_ < text_.size()) {
      fields.clear();
      record_line_ = line_;
      bool is_quoted = false;
      do {
        fields.push_back(read_field(is_quoted));
      } while (take(','));
      take_line_end();
      if (fields.size() > 1 || !fields.front().empty() || is_quoted) return true;
    }
    return false;
  }

  /// Returns the line at which the last record begins.
  int64_t line() const { return record_line_; }

 private:
  bool is_at(char c) const { return position_ < text_.size() && text_[position_] == c; }
  bool take(char c) {
    if (!is_at(c)) return false;
    ++position_;
    return true;
  }
  void take_line_end() {
    const bool has_return = take('\r');
    if (take('\n') || has_return) ++line_;
  }

  std::string read_field(bool& is_quoted) {
    if (take('"')) {
      is_quoted = true;
      return read_quoted_field();
    }
    std::string field;
    while (position_ < text_.size() && !is_at(',') && !is_at('\r') && !is_at('\n')) read_character(field);
    return field;
  }

  std::string read_quoted_field() {
    std::string field;
    const int64_t first_line = line_;
    while (true) {
      require<FileError>(position_ < text_.size(), "{}: line {}: a quoted field does not end", where_,
                         first_line);
      if (take('"') && !is_at('"')) break;
      line_ += is_at('\n') ? 1 : 0;
      read_character(field);
    }
    require<FileError>(
        position_ == text_.size() || is_at(',') || is_at('\r') || is_at('\n'),
        "{}: line {}: text follows a quoted field, expected a comma or the end of the line; a quote "
        "within a field is doubled",
        where_, line_);
    return field;
  }

  void read_character(std::string& field) {
    const auto [size, is_complete] = utf8_prefix(text_.substr(position_));
    require<FileError>(is_complete && text_[position_] != '\0',
                       "{}: line {}: the text is not UTF-8 (byte {:#04x})", where_, line_,
                       static_cast<unsigned char>(text_[position_]));
    field += text_.substr(position_, size);
    position_ += size;
  }

  std::string_view text_;
  std::string_view where_;
  std::size_t position_ = 0;
  int64_t line_ = 1;
  int64_t record_line_ = 1;
};

void check_csv_header(const std::vector<std::string>& columns, std::string_view where) {
  for (std::size_t i = 0; i < columns.size(); ++i)
    for (std::size_t j = 0; j < i; ++j)
      require<FileError>(columns[i] != columns[j] || columns[i].empty(), "{}: line 1: column {} occurs twice",
                         where, json_excerpt(columns[i]));
}

}  // namespace

std::string MetadataRow::place(std::string_view column) const {
  return fmt::format("{}: line {}: column {}", where_, line_, json_excerpt(std::string(column)));
}

bool MetadataRow::has(std::string_view column) const {
  const auto found = values_.find(std::string(column));
  return found != values_.end() && !found->is_null();
}

const Json& MetadataRow::value(std::string_view column) const {
  const auto found = values_.find(std::string(column));
  if (found == values_.end() || found->is_null()) fail<FileError>("{} is missing", place(column));
  return *found;
}

std::string MetadataRow::text(std::string_view column) const {
  const Json& found = value(column);
  if (!found.is_string()) fail<FileError>("{} is {}, expected a string", place(column), json_excerpt(found));
  return found.get<std::string>();
}

std::vector<std::string> MetadataRow::texts(std::string_view column) const {
  const Json& found = value(column);
  if (found.is_string()) return {found.get<std::string>()};
  const bool is_list =
      found.is_array() && !found.empty() &&
      std::all_of(found.begin(), found.end(), [](const Json& item) { return item.is_string(); });
  if (!is_list)
    fail<FileError>("{} is {}, expected a string or a list of one or more strings", place(column),
                    json_excerpt(found));
  return found.get<std::vector<std::string>>();
}

void read_metadata_jsonl(std::string_view text, std::string_view where, const VisitRow& visit) {
  text = without_mark(text);
  for (int64_t number = 1; !text.empty(); ++number) {
    const auto end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    Json values = parse_json(line, fmt::format("{}: line {}", where, number));
    if (!values.is_object())
      fail<FileError>("{}: line {} is {}, expected a JSON object", where, number, json_excerpt(values));
    visit(MetadataRow(where, number, std::move(values), /*is_csv=*/false));
  }
}

void read_metadata_csv(std::string_view text, std::string_view where, const VisitRow& visit) {
  if (const auto meaning = describe_foreign_content(text))
    fail<FileError>("{}: expected a CSV file: {}", where, *meaning);
  CsvReader reader(without_mark(text), where);
  std::vector<std::string> columns;
  if (!reader.next(columns)) return;
  check_csv_header(columns, where);
  std::vector<std::string> fields;
  while (reader.next(fields)) {
    require<FileError>(fields.size() == columns.size(),
                       "{}: line {}: {} fields, expected {} as in the first line", where, reader.line(),
                       fields.size(), columns.size());
    Json values = Json::object();
    for (std::size_t i = 0; i < columns.size(); ++i) values[columns[i]] = std::move(fields[i]);
    visit(MetadataRow(where, reader.line(), std::move(values), /*is_csv=*/true));
  }
}

}  // namespace internal
}  // namespace diffusers

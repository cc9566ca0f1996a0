#pragma once

// The samples of a shard: the members of a tar archive that have one key. It does not use LibTorch, so that a
// fuzz target can link it alone.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/tar_reader.h"

namespace diffusers {
inline namespace internal {

/// Where the samples of a dataset have a text.
struct TarField {
  bool is_member = false;   ///< in a member of its own: KEY.txt or KEY.cls
  std::string column = {};  ///< in this column of KEY.json; empty: not there

  bool is_absent() const { return !is_member && column.empty(); }
};

/// The fields that all samples of a dataset have.
struct TarFields {
  TarField caption = {}, label = {};

  bool need_json() const { return !caption.column.empty() || !label.column.empty(); }
};

/// A sample as it is in the archive. The image is not decoded.
struct EncodedSample {
  std::string key;
  std::string image_name;  ///< member of the image
  std::string image;       ///< bytes of this member
  std::vector<std::string> captions;
  std::optional<int64_t> label;
};

/// Reads the samples of a shard one after another, with the rules of WebDataset: the key of a member is its
/// path up to the first dot of the file name, and the members of a sample follow each other. Members of other
/// kinds, hidden files and files without an extension are passed over, and so are names that begin with
/// "__NAME__".
class TarSamples {
 public:
  /// @param fields fields that every sample must have
  TarSamples(TarReader reader, TarFields fields);

  /// Reads the next sample.
  /// @return nullopt at the end of the shard
  /// @throws FileError naming the shard and the member, or the sample, as TarReader; for a sample without an
  /// image,
  ///   with two images or with a WebP image; for a missing or invalid caption or label
  std::optional<EncodedSample> next();
  /// Passes over the next sample. Its data is not read.
  /// @return false at the end of the shard
  bool skip();

 private:
  struct Found;
  bool advance(EncodedSample* sample);
  void read_members(EncodedSample& sample, Found& found);

  TarReader reader_;
  TarFields fields_;
  std::optional<TarMember> pending_;  // first member of the next sample, not read yet
  bool has_begun_ = false;
};

/// Finds the fields of the samples of a dataset in the first sample of a shard.
/// @param reader the shard
/// @param caption_column column of KEY.json; empty: KEY.txt, else the column "caption" or "text" if it is
/// there
/// @param label_column column of KEY.json; empty: KEY.cls, else the column "cls" or "label" if it is there
/// @throws FileError as TarSamples::next; if the shard has no sample, or if a given column is missing
TarFields find_tar_fields(TarReader reader, const std::string& caption_column,
                          const std::string& label_column);

}  // namespace internal
}  // namespace diffusers

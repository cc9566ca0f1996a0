#include "io/save_model_files.h"

#include <diffusers/io/files.h>

#include "io/folders.h"

namespace diffusers {
inline namespace internal {

void save_model_files(const TensorMap& tensors, const std::string& folder, const std::string& config_json,
                      const std::string& basename, const SaveWeightsOptions& options) {
  const auto write = [&](const std::string& to) {
    save_weights(tensors, to, basename, options);
    write_file(config_json, join_path(to, "config.json"));
  };
  // New weights with an old config would fail to load, or load as another model.
  const std::string config = join_path(folder, "config.json");
  const bool has_other_config = file_exists(config) && read_text_file(config) != config_json;
  if (!has_other_config || !change_folder_at_once(folder, write)) write(folder);
}

}  // namespace internal
}  // namespace diffusers

#include "io/shard_index.h"

#include <diffusers/io/files.h>

#include "core/json.h"
#include "core/require.h"
#include "io/posix_file.h"

namespace diffusers {
inline namespace internal {

ShardIndex parse_shard_index(std::string_view text, std::string_view where) {
  const Json index = parse_json(text, where);
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  require<FileError>(map != index.end() && map->is_object() && !map->empty(),
                     "{}: expected an object \"weight_map\" of tensor names and files", where);
  ShardIndex shards;
  const std::string what = fmt::format("{}: the shard", where);
  for (const auto& [tensor, file] : map->items()) {
    require<FileError>(file.is_string(), "{}: the file of tensor {} is {}, expected a string", where,
                       escaped(tensor), json_excerpt(file));
    const auto& name = file.get_ref<const std::string&>();
    require_plain_basename(name, what);
    require<FileError>(name.ends_with(".safetensors"),
                       "{}: the shard {} is no safetensors file; convert it to safetensors", where,
                       escaped(name));
    shards[name].insert(tensor);
  }
  return shards;
}

}  // namespace internal
}  // namespace diffusers

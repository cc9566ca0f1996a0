// Config files: the strict JSON parser, the writer, and the reading of fields of every kind.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/one_or_many.h>

#include "core/config_json.h"
#include "core/json.h"
#include "fuzz.h"

namespace diffusers {
namespace {

struct Config {
  bool flag = false;
  int64_t count = 0;
  double number = 0;
  std::string text;
  std::vector<int64_t> list;
  std::optional<double> maybe;
  OneOrMany<int64_t> one_or_many;
};

template <class Visitor>
void visit_fields(Config& config, Visitor&& visit) {
  visit("flip_sin_to_cos", config.flag);
  visit("in_channels", config.count);
  visit("norm_eps", config.number);
  visit("act_fn", config.text);
  visit("block_out_channels", config.list);
  visit("dropout", config.maybe);
  visit("sample_size", config.one_or_many);
}

void check_round_trip(const Json& json) {
  const std::string text = dump_json(json);
  fuzz::check(dump_json(parse_json(text, "written")) == text, "what is written is read as it was");
}

}  // namespace
}  // namespace diffusers

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  using namespace diffusers;
  try {
    const Json json = parse_json(fuzz::text_of(data, size), "config");
    check_round_trip(json);
    Config config;
    const Json rest = config_json::fields_from_json(json, config, "config");
    fuzz::check(rest.size() <= json.size(), "the rest is part of the whole");
    check_round_trip(config_json::fields_to_json(config));
  } catch (const FileError&) {
  } catch (const ConfigError&) {
  }
  return 0;
}

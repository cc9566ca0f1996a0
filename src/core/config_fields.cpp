#include "core/config_fields.h"

#include <utility>

#include "core/config_json.h"
#include "core/require.h"

namespace diffusers {
inline namespace internal {
namespace config_fields {
namespace {

/// Base of the visitors that treat fields of all types alike.
template <class Derived>
class AnyFieldVisitor : public ConfigVisitor {
 public:
  using ConfigVisitor::operator();
  void operator()(const char* key, bool& field) override { self().visit(key, field); }
  void operator()(const char* key, int64_t& field) override { self().visit(key, field); }
  void operator()(const char* key, double& field) override { self().visit(key, field); }
  void operator()(const char* key, std::string& field) override { self().visit(key, field); }
  void operator()(const char* key, std::optional<bool>& field) override { self().visit(key, field); }
  void operator()(const char* key, std::optional<int64_t>& field) override { self().visit(key, field); }
  void operator()(const char* key, std::optional<double>& field) override { self().visit(key, field); }
  void operator()(const char* key, std::optional<std::string>& field) override { self().visit(key, field); }
  void operator()(const char* key, std::vector<int64_t>& field) override { self().visit(key, field); }
  void operator()(const char* key, std::vector<double>& field) override { self().visit(key, field); }
  void operator()(const char* key, std::vector<std::string>& field) override { self().visit(key, field); }
  void operator()(const char* key, OneOrMany<int64_t>& field) override { self().visit(key, field); }

 private:
  Derived& self() { return static_cast<Derived&>(*this); }
};

class KeyLister final : public AnyFieldVisitor<KeyLister> {
 public:
  std::vector<std::string> keys;

  template <class Field>
  void visit(const char* key, Field& /*field*/) {
    keys.emplace_back(key);
  }
  void list(const char* key, std::vector<int64_t>& /*field*/) override { keys.emplace_back(key); }
  void program_only(const char* key, bool /*is_set*/) override { keys.emplace_back(key); }

 protected:
  bool visit_name(const char* key, std::optional<std::string>& /*name*/, bool /*is_optional*/) override {
    keys.emplace_back(key);
    return false;
  }
};

class Writer final : public AnyFieldVisitor<Writer> {
 public:
  Json json = Json::object();

  template <class Field>
  void visit(const char* key, const Field& field) {
    json[key] = config_json::to(field);
    // An empty vector stands for Python's None in a list field.
    if (json[key].is_array() && json[key].empty()) json[key] = nullptr;
  }
  void list(const char* key, std::vector<int64_t>& field) override { json[key] = config_json::to(field); }
  void program_only(const char* key, bool is_set) override {
    require<ConfigError>(!is_set,
                         "{} is set to an object such as a scheduler, but a config file can hold only null "
                         "there; unset it before "
                         "saving",
                         key);
    json[key] = nullptr;
  }

 protected:
  bool visit_name(const char* key, std::optional<std::string>& name, bool /*is_optional*/) override {
    json[key] = config_json::to(name);
    return false;
  }
};

class Reader final : public AnyFieldVisitor<Reader> {
 public:
  Reader(const Json& json, NullBool null_bool) : rest(json), json_(json), null_bool_(null_bool) {}

  Json rest;

  template <class Field>
  void visit(const char* key, Field& field) {
    if (const Json* value = find(key)) config_json::from(*value, field, key);
  }
  void visit(const char* key, bool& field) {
    const Json* value = find(key);
    if (value == nullptr) return;
    if (value->is_null() && null_bool_ == NullBool::kFalse) {
      field = false;
    } else {
      config_json::from(*value, field, key);
    }
  }
  void list(const char* key, std::vector<int64_t>& field) override { visit(key, field); }
  void program_only(const char* key, bool /*is_set*/) override {
    const Json* value = find(key);
    require<ConfigError>(value == nullptr || value->is_null(), "{} is {}, expected null", key,
                         value == nullptr ? std::string() : json_excerpt(*value));
  }

 protected:
  bool visit_name(const char* key, std::optional<std::string>& name, bool is_optional) override {
    const Json* value = find(key);
    if (value == nullptr) return false;
    if (is_optional) {
      config_json::from(*value, name, key);
    } else {
      config_json::from(*value, name.emplace(), key);
    }
    return true;
  }

 private:
  const Json* find(const char* key) {
    const auto found = json_.find(key);
    if (found == json_.end()) return nullptr;
    rest.erase(key);
    return &*found;
  }

  const Json& json_;
  NullBool null_bool_;
};

}  // namespace

std::vector<std::string> keys(const VisitConfig& visit) {
  KeyLister lister;
  visit(lister);
  return std::move(lister.keys);
}

Json to_json(const VisitConfig& visit) {
  Writer writer;
  visit(writer);
  return std::move(writer.json);
}

Json from_json(const Json& json, const VisitConfig& visit, std::string_view where, NullBool null_bool) {
  require<ConfigError>(json.is_object(), "{}: expected a JSON object", where);
  Reader reader(json, null_bool);
  try {
    visit(reader);
  } catch (const ConfigError& error) {
    fail<ConfigError>("{}: {}", where, error.what());
  }
  return std::move(reader.rest);
}

}  // namespace config_fields
}  // namespace internal
}  // namespace diffusers

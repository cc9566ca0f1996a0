#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/enum_names.h>
#include <diffusers/core/one_or_many.h>

namespace diffusers {

/// Visits the fields of a config struct: reads them from JSON, writes them as JSON, or lists their names.
///
/// Each config struct has one function that names its fields. It is in the namespace of the struct and lists
/// the fields in the order of the file:
/// @code
/// struct MyConfig {
///   int64_t num_train_timesteps = 1000;
///   EnumChoice<BetaSchedule> beta_schedule = "linear";
/// };
/// inline void visit_fields(MyConfig& config, ConfigVisitor& visit) {
///   visit("num_train_timesteps", config.num_train_timesteps);
///   visit("beta_schedule", config.beta_schedule);
/// }
/// @endcode
/// A field's type is one of the types below, or an enumeration with `EnumNames`. An empty `optional`,
/// `vector` or `OneOrMany` stands for null.
class ConfigVisitor {
 public:
  virtual ~ConfigVisitor() = default;

  /// Visits one field.
  /// @param key the key in the file
  /// @param field the field; a reader assigns it, a writer only reads it
  /// @throws ConfigError from a reader, naming the key, the value and what was expected
  virtual void operator()(const char* key, bool& field) = 0;
  /// @copydoc operator()(const char*, bool&)
  virtual void operator()(const char* key, int64_t& field) = 0;
  /// @copydoc operator()(const char*, bool&)
  virtual void operator()(const char* key, double& field) = 0;
  /// @copydoc operator()(const char*, bool&)
  virtual void operator()(const char* key, std::string& field) = 0;
  /// @copydoc operator()(const char*, bool&)
  virtual void operator()(const char* key, std::optional<bool>& field) = 0;
  /// @copydoc operator()(const char*, bool&)
  virtual void operator()(const char* key, std::optional<int64_t>& field) = 0;
  /// @copydoc operator()(const char*, bool&)
  virtual void operator()(const char* key, std::optional<double>& field) = 0;
  /// @copydoc operator()(const char*, bool&)
  virtual void operator()(const char* key, std::optional<std::string>& field) = 0;
  /// @copydoc operator()(const char*, bool&)
  virtual void operator()(const char* key, std::vector<int64_t>& field) = 0;
  /// @copydoc operator()(const char*, bool&)
  virtual void operator()(const char* key, std::vector<double>& field) = 0;
  /// @copydoc operator()(const char*, bool&)
  virtual void operator()(const char* key, std::vector<std::string>& field) = 0;
  /// @copydoc operator()(const char*, bool&)
  virtual void operator()(const char* key, OneOrMany<int64_t>& field) = 0;

  /// Visits a list that is never null: an empty one is written as `[]`.
  /// @param key the key in the file
  /// @param field the list
  /// @throws ConfigError from a reader, naming the key
  virtual void list(const char* key, std::vector<int64_t>& field) = 0;

  /// Visits a field that only a program can set, such as a function. Files hold null for it.
  /// @param key the key in the file
  /// @param is_set true if the field has a value
  /// @throws ConfigError from a reader if the file does not hold null; from a writer if `is_set` is true
  virtual void program_only(const char* key, bool is_set) = 0;

  /// Visits an enumeration, which a file holds as the string of `EnumNames`.
  /// @param key the key in the file
  /// @param field the enumerator
  /// @throws ConfigError naming the key, the value and the values that exist
  template <class Enum>
  requires std::is_enum_v<Enum>
  void operator()(const char* key, Enum& field) {
    std::optional<std::string> name(enum_name(field));
    if (visit_name(key, name, /*is_optional=*/false)) field = enum_from_name<Enum>(*name, key);
  }
  /// Visits a field that takes both an enumerator and its string.
  /// @param key the key in the file
  /// @param field the enumerator
  /// @throws ConfigError naming the key, the value and the values that exist
  template <class Enum>
  void operator()(const char* key, EnumChoice<Enum>& field) {
    Enum value = field.value();
    (*this)(key, value);
    field = value;
  }
  /// Visits an enumeration that may be null.
  /// @param key the key in the file
  /// @param field the enumerator; nullopt stands for null
  /// @throws ConfigError naming the key, the value and the values that exist
  template <class Enum>
  void operator()(const char* key, std::optional<EnumChoice<Enum>>& field) {
    std::optional<std::string> name;
    if (field) name = std::string(field->name());
    if (!visit_name(key, name, /*is_optional=*/true)) return;
    field.reset();
    if (name) field = EnumChoice<Enum>(enum_from_name<Enum>(*name, key));
  }

 protected:
  /// Visits the string of an enumeration.
  /// @param key the key in the file
  /// @param name the current string, which a reader replaces with that of the file; nullopt stands for null
  /// @param is_optional true if the file may hold null
  /// @return true if `name` was read from a file
  virtual bool visit_name(const char* key, std::optional<std::string>& name, bool is_optional) = 0;
};

}  // namespace diffusers

#pragma once

// The class name in a config file.

#include <initializer_list>
#include <string>
#include <string_view>

#include "core/json.h"

namespace diffusers {
inline namespace internal {

/// Returns true if a model class of that name exists in Python diffusers, in the parts of transformers that
/// its pipelines use, in this library, or in the program (add_model_class).
bool is_model_class(std::string_view name);

/// Adds a class of the program to those that is_model_class() knows. Thread-safe.
void add_model_class(std::string_view name);

/// Returns the class that a config names: `_class_name`, or else the first of transformers' `architectures`;
/// empty if it names none.
/// @throws ConfigError if `_class_name` is not a string
std::string config_class(const Json& config, std::string_view where, std::string_view expected);

/// Checks that a model's config belongs to the class that reads it. An unknown class name, such as that of a
/// user's subclass, gives one warning.
/// @param where path of the file, for error messages
/// @param compatible other classes whose configs the class reads
/// @throws ConfigError naming `where`, the expected and the found class, if the config is of another known
/// class
void check_config_class(const Json& config, std::string_view where, std::string_view expected,
                        std::initializer_list<std::string_view> compatible = {});

}  // namespace internal
}  // namespace diffusers

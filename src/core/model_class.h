#pragma once

// The class that a config file is of.

#include <initializer_list>
#include <string>
#include <string_view>

#include "core/json.h"

namespace diffusers {
inline namespace internal {

/// Whether Python diffusers, the parts of transformers that its pipelines use, this library or the program
/// (add_model_class) has a model class of that name.
bool is_model_class(std::string_view name);

/// Adds a class of the program's own to those that is_model_class() knows. Thread-safe.
void add_model_class(std::string_view name);

/// The class that a config names: `_class_name`, or else the first of transformers' `architectures`; empty if
/// it names none.
/// @throws ConfigError if `_class_name` is not a string
std::string config_class(const Json& config, std::string_view where, std::string_view expected);

/// Checks that a model's config belongs to the class that reads it. A name that no class of diffusers or
/// transformers has, such as that of a user's subclass, warns once.
/// @param where the path of the file, for messages
/// @param compatible other classes whose configs the class reads
/// @throws ConfigError naming `where`, the expected and the found class, if the config is of another known
/// class
void check_config_class(const Json& config, std::string_view where, std::string_view expected,
                        std::initializer_list<std::string_view> compatible = {});

}  // namespace internal
}  // namespace diffusers

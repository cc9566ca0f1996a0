#pragma once

// Declares the flags of a program as a table. Each row has the name of a flag, the config field that it sets,
// and the help text. `--help` prints the table with the defaults.

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <optional>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/enum_names.h>

/// Validators of numbers. They accept text that is not a number, because the conversion rejects it.
CLI::Validator at_least(double least);
CLI::Validator greater_than(double limit);
CLI::Validator between(double least, double most);

/// Options of a flag besides its name, its field and its help text.
struct FlagOptions {
  std::optional<CLI::Validator> check = {};  ///< check of the value; the error message names the flag
  std::vector<std::string> choices = {};     ///< the enumerators that the flag accepts; empty means all
  bool required = false;
  std::string default_text = "none";  ///< default in `--help` for a field that is empty by default
};

namespace flag_detail {

template <class T>
struct EnumOf {
  using type = T;
};
template <class Enum>
struct EnumOf<diffusers::EnumChoice<Enum>> {
  using type = Enum;
};
template <class T>
inline constexpr bool kIsEnum = std::is_enum_v<typename EnumOf<T>::type>;

template <class T>
struct IsOptional : std::false_type {};
template <class T>
struct IsOptional<std::optional<T>> : std::true_type {};

/// Formats the default of a field for `--help`; empty for a field without a value.
template <class Field>
std::string default_of(const Field& value) {
  std::ostringstream text;
  text << std::boolalpha;
  if constexpr (IsOptional<Field>::value) {
    if (value) text << *value;
  } else if constexpr (requires { text << value; }) {
    text << value;
  } else {
    for (const auto& element : value) text << (&element == value.data() ? "" : " ") << element;
  }
  return text.str();
}

/// Adds a flag that takes one of Python's strings for an enumerator.
template <class Enum, class Field>
CLI::Option* add_enum_flag(CLI::App& app, const std::string& name, Field& value, const std::string& help,
                           std::vector<std::string> choices) {
  if (choices.empty())
    for (const auto& entry : diffusers::EnumNames<Enum>::kTable) choices.emplace_back(entry.second);
  return app
      .add_option_function<std::string>(
          name,
          [&value, name](const std::string& text) { value = diffusers::enum_from_name<Enum>(text, name); },
          help)
      ->check(CLI::IsMember(std::move(choices)))
      ->default_str(std::string(diffusers::enum_name(static_cast<Enum>(value))));
}

template <class Field>
CLI::Option* add_flag(CLI::App& app, const std::string& name, Field& value, const std::string& help,
                      const FlagOptions& options) {
  CLI::Option* option = nullptr;
  if constexpr (kIsEnum<Field>) {
    option = add_enum_flag<typename EnumOf<Field>::type>(app, name, value, help, options.choices);
  } else if constexpr (std::is_same_v<Field, bool>) {
    // A flag without a value can only be switched on, unless it has a negative name
    // ("--use_ema,!--no_use_ema").
    const bool has_negative = name.find('!') != std::string::npos;
    if (!value || has_negative) return app.add_flag(name, value, help + (value ? " [on]" : " [off]"));
    option = app.add_option(name, value, help)->default_str("true");
  } else {
    const std::string text = default_of(value);
    option = app.add_option(name, value, help);
    // The conversion would change -1 to the largest number.
    if constexpr (std::is_unsigned_v<Field>) option->check(at_least(0));
    if (!options.required) option->default_str(text.empty() ? options.default_text : text);
  }
  if (options.check) option->check(*options.check);
  return option->required(options.required);
}

}  // namespace flag_detail

/// One flag, which sets one field of a `Config`.
template <class Config>
class Flag {
 public:
  /// @param name "--name"; a name without dashes is a positional argument
  /// @param help one or two plain sentences
  template <class Field>
  Flag(std::string name, Field Config::*field, std::string help, FlagOptions options = {})
      : add_([=](CLI::App& app, Config& config) {
          return flag_detail::add_flag(app, name, config.*field, help, options);
        }) {}

  /// Makes a flag for a field of another type.
  /// @param add adds the flag to a command line; see `add`
  explicit Flag(std::function<CLI::Option*(CLI::App&, Config&)> add) : add_(std::move(add)) {}

  /// Adds the flag to a command line. The value in `config` is the default.
  /// @param config the config, which must outlive the parsing
  CLI::Option* add(CLI::App& app, Config& config) const { return add_(app, config); }

 private:
  std::function<CLI::Option*(CLI::App&, Config&)> add_;
};

/// A group of flags with a title in `--help`.
template <class Config>
struct FlagGroup {
  std::string title;
  std::vector<Flag<Config>> flags;
};
template <class Config>
using FlagTable = std::vector<FlagGroup<Config>>;

/// Adds all flags of a table to a command line. The values in `config` are the defaults.
/// @param config the config, which must outlive the parsing
template <class Config>
void add_flags(CLI::App& app, const FlagTable<Config>& table, Config& config) {
  for (const FlagGroup<Config>& group : table)
    for (const Flag<Config>& flag : group.flags) flag.add(app, config)->group(group.title);
}

/// Returns the validator of `--device`: cpu, cuda or cuda:INDEX. Its message lists the available devices.
CLI::Validator available_device();

/// Parses the command line. On `--help` or an error it prints the text and ends the program.
void parse_or_exit(CLI::App& app, int argc, char** argv);

/// Parses the command line of a program whose flags are in one table.
/// @param description description of the program in `--help`
template <class Config>
Config parse_flags(const FlagTable<Config>& table, const std::string& description, int argc, char** argv) {
  Config config;
  CLI::App app(description);
  add_flags(app, table, config);
  parse_or_exit(app, argc, argv);
  return config;
}

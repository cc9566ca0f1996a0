#pragma once

#include <stdexcept>
#include <string>

/// The namespace of the library: the classes, configs and functions of Python `diffusers`, in C++.
namespace diffusers {

/// Base of every exception that the library throws. The message says what was expected and what was found.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A config value, config file or combination of options that cannot work; the message names the key.
class ConfigError : public Error {
 public:
  using Error::Error;
};

/// A file or folder that is missing, torn, malformed or cannot be written; the message names the path.
class FileError : public Error {
 public:
  using Error::Error;
};

/// A text that cannot be turned into tokens: it is not UTF-8, or one tensor cannot hold texts of unequal
/// length.
class TextError : public Error {
 public:
  using Error::Error;
};

/// A tensor argument whose shape, dtype, device or value range does not fit; the message names both sides.
class TensorError : public Error {
 public:
  using Error::Error;
};

}  // namespace diffusers

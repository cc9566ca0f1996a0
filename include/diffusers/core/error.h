#pragma once

#include <stdexcept>
#include <string>

/// The namespace of the library: the classes, configs and functions of Python `diffusers`, in C++.
namespace diffusers {

/// Base of every exception that the library throws. The message states what was expected and what was found.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Invalid config value, config file or combination of options. The message names the key.
class ConfigError : public Error {
 public:
  using Error::Error;
};

/// A file or folder that is missing, incomplete or malformed, or that cannot be written. The message names
/// the path.
class FileError : public Error {
 public:
  using Error::Error;
};

/// A text that cannot be tokenized: it is not UTF-8, or texts of different lengths were to become one tensor.
class TextError : public Error {
 public:
  using Error::Error;
};

/// A tensor argument of an unexpected shape, dtype, device or value range. The message states the expected
/// and the actual value.
class TensorError : public Error {
 public:
  using Error::Error;
};

}  // namespace diffusers

#pragma once

#include <diffusers/core/error.h>

namespace diffusers {
inline namespace internal {

/// Thrown by an exchange that failed because of another process or the network.
class ExchangeError : public Error {
 public:
  using Error::Error;
};

}  // namespace internal
}  // namespace diffusers

#pragma once

// The connections of a ProcessGroup. This header includes c10d; only the sources of this folder may include
// it.

#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <string>
#include <string_view>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <diffusers/training/process_group.h>

#include <c10/util/intrusive_ptr.h>

#include "training/distributed/launch_environment.h"

namespace diffusers {
inline namespace internal {

class ProcessGroupState {
 public:
  /// Meets the other processes.
  /// @throws Error naming the address if they do not meet within the timeout
  ProcessGroupState(const LaunchEnvironment& environment, const ProcessGroupOptions& options);
  ProcessGroupState(const ProcessGroupState&) = delete;
  ProcessGroupState& operator=(const ProcessGroupState&) = delete;
  ~ProcessGroupState();

  int64_t rank() const { return environment_.rank; }
  int64_t world_size() const { return environment_.world_size; }
  const ProcessGroupOptions& options() const { return options_; }
  /// Returns the local rank; the rank, if the launcher does not tell it.
  int64_t local_rank() const { return environment_.local_rank.value_or(environment_.rank); }

  /// Runs an exchange and translates its errors.
  /// @param name names the exchange in messages
  /// @throws Error with the reason of the process that stopped, if it is known
  void exchange(const char* name, const std::function<void(c10d::ProcessGroup& group)>& body);
  /// Returns c10d's group.
  /// @throws Error after `abort`
  const c10::intrusive_ptr<c10d::ProcessGroup>& group() const;
  /// Throws the error of an exchange that failed.
  /// @param detail what c10d says
  [[noreturn]] void fail_exchange(std::string_view name, const std::string& detail);
  /// Throws the error of an exchange if `error` comes from one, as within a backward pass.
  void check_for_exchange(const char* name, const std::exception& error);

  /// See ProcessGroup::abort.
  void abort(std::string_view reason) noexcept;

 private:
  void open_store();
  void connect();
  /// Returns the reason of the process that stopped first; empty if none is known.
  std::string reason_of_others() const noexcept;

  LaunchEnvironment environment_;
  ProcessGroupOptions options_;
  std::chrono::milliseconds timeout_;
  c10::intrusive_ptr<c10d::Store> store_;
  c10::intrusive_ptr<c10d::ProcessGroup> group_;
};

}  // namespace internal
}  // namespace diffusers

#include "training/distributed/process_group_state.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <exception>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <utility>
#include <vector>

#include <ATen/Context.h>
#include <c10/util/Exception.h>

#if DIFFUSERS_WITH_GLOO
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#endif

#include "core/require.h"
#include "training/distributed/exchange_error.h"
#include "training/distributed/nccl_backend.h"

namespace diffusers {
inline namespace internal {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr const char* kReasonKey = "diffusers/reason";
constexpr const char* kSeenKey = "diffusers/seen";
/// Time that a process that stops gives the others to read its reason.
constexpr milliseconds kFarewell{5000};
constexpr milliseconds kPoll{20};
/// What the errors of c10d's backends and stores contain.
constexpr std::array<std::string_view, 5> kExchangeMarks{"gloo", "Gloo", "NCCL", "TCPStore",
                                                         "Connection closed"};

std::string text_of(const std::vector<uint8_t>& bytes) { return {bytes.begin(), bytes.end()}; }
std::vector<uint8_t> bytes_of(std::string_view text) { return {text.begin(), text.end()}; }

/// The first line of an error of c10d, without its stack trace.
std::string first_line(const std::exception& error) {
  const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
  const std::string text = torch_error != nullptr ? torch_error->what_without_backtrace() : error.what();
  return text.substr(0, text.find('\n'));
}

/// Runs a function in a thread, and leaves it there if it does not end in time: when the network drops
/// packets, the calls of a store wait without end.
/// @return whether the function ended without an exception
bool run_within(milliseconds limit, std::function<void()> function) {
  const auto result = std::make_shared<std::promise<bool>>();
  std::future<bool> done = result->get_future();
  std::thread([result, function = std::move(function)] {
    try {
      function();
      result->set_value(true);
    } catch (const std::exception&) {
      result->set_value(false);  // the store went with the process that held it
    }
  }).detach();
  return done.wait_for(limit) == std::future_status::ready && done.get();
}

/// Time for the last exchange by the store.
milliseconds farewell(milliseconds timeout) { return std::min(kFarewell, timeout); }

/// Waits until all processes have read the reason: rank 0 may hold the store, and a launcher ends the others
/// when the first one has ended.
void wait_until_seen(c10d::Store& store, int64_t others) {
  const auto end = steady_clock::now() + kFarewell;
  while (store.add(kSeenKey, 0) < others && steady_clock::now() < end) std::this_thread::sleep_for(kPoll);
}

}  // namespace

ProcessGroupState::ProcessGroupState(const LaunchEnvironment& environment, const ProcessGroupOptions& options)
    : environment_(environment),
      options_(options),
      timeout_(static_cast<int64_t>(options.timeout_seconds * 1000)) {
#if !DIFFUSERS_WITH_GLOO
  fail<ConfigError>(
      "the environment describes {} processes, but the library was built without Gloo; build it with "
      "-DDIFFUSERS_WITH_GLOO=ON, which needs the headers gloo/*.h (Debian: libgloo-dev)",
      environment_.world_size);
#endif
  require<ConfigError>(
      !at::hasCUDA() || has_nccl(),
      "there is a CUDA device, but the library was built without NCCL, which connects CUDA "
      "devices; build it with DIFFUSERS_WITH_CUDA=ON and the header nccl.h, or hide the device "
      "with CUDA_VISIBLE_DEVICES= to train on CPUs");
  open_store();
  connect();
}

ProcessGroupState::~ProcessGroupState() = default;

void ProcessGroupState::open_store() {
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(environment_.master_port);
  options.isServer = environment_.rank == 0 && !environment_.uses_agent_store;
  options.numWorkers = static_cast<std::size_t>(environment_.world_size);
  options.waitWorkers = !environment_.uses_agent_store;
  options.timeout = timeout_;
  try {
    const auto tcp = c10::make_intrusive<c10d::TCPStore>(environment_.master_addr, options);
    store_ = c10::make_intrusive<c10d::PrefixStore>(
        fmt::format("/worker/attempt_{}", environment_.restart_count), tcp);
  } catch (const std::exception& error) {
    fail(
        "process {} of {} did not meet the others at MASTER_ADDR {} and MASTER_PORT {} within {:g} s: {}; "
        "check "
        "the address, that the port is free on that machine and open in its firewall, and that all {} "
        "processes run",
        environment_.rank, environment_.world_size, environment_.master_addr, environment_.master_port,
        static_cast<double>(timeout_.count()) / 1000, first_line(error), environment_.world_size);
  }
}

void ProcessGroupState::connect() {
#if DIFFUSERS_WITH_GLOO
  const auto rank = static_cast<int>(environment_.rank);
  const auto size = static_cast<int>(environment_.world_size);
  try {
    const auto store = c10::make_intrusive<c10d::PrefixStore>("diffusers/gloo", store_);
    const auto options = c10d::ProcessGroupGloo::Options::create_default(timeout_);
    const auto gloo = c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, size, options);
    group_ = c10::make_intrusive<c10d::ProcessGroup>(store_, rank, size);
    group_->setBackend(c10::DeviceType::CPU, c10d::ProcessGroup::BackendType::GLOO, gloo);
    group_->setDefaultBackend(c10d::ProcessGroup::BackendType::GLOO);
    group_->setGroupName("diffusers");
    if (at::hasCUDA()) add_nccl_backend(*group_, store_, timeout_);
  } catch (const std::exception& error) {
    fail(
        "process {} of {} found the others at MASTER_ADDR {} and MASTER_PORT {}, but did not connect to them "
        "within {:g} s: {}; check that all processes run, and that their machines reach each other (the "
        "variable GLOO_SOCKET_IFNAME chooses the network interface)",
        environment_.rank, environment_.world_size, environment_.master_addr, environment_.master_port,
        static_cast<double>(timeout_.count()) / 1000, first_line(error));
  }
#endif
}

const c10::intrusive_ptr<c10d::ProcessGroup>& ProcessGroupState::group() const {
  require(group_.defined(), "process {} of {} has closed its connections", rank(), world_size());
  return group_;
}

void ProcessGroupState::exchange(const char* name,
                                 const std::function<void(c10d::ProcessGroup& group)>& body) {
  try {
    body(*group());
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    fail_exchange(name, first_line(error));
  }
}

void ProcessGroupState::fail_exchange(std::string_view name, const std::string& detail) {
  const std::string reason = reason_of_others();
  if (!reason.empty()) throw ExchangeError(reason);
  throw ExchangeError(
      fmt::format("process {} of {} lost the others in {}: one of them has ended, or did not answer within "
                  "{:g} s; see its output, and go on from the last checkpoint with resume_from_checkpoint "
                  "\"latest\" ({})",
                  rank(), world_size(), name, static_cast<double>(timeout_.count()) / 1000, detail));
}

void ProcessGroupState::check_for_exchange(const char* name, const std::exception& error) {
  const std::string text = first_line(error);
  for (const std::string_view mark : kExchangeMarks)
    if (text.find(mark) != std::string::npos) fail_exchange(name, text);
}

std::string ProcessGroupState::reason_of_others() const noexcept {
  // Shared with the threads, which may outlive this call.
  const auto reason = std::make_shared<std::string>();
  const bool is_known = run_within(farewell(timeout_), [store = store_, reason] {
    if (!store->check({kReasonKey})) return;
    *reason = text_of(store->get(kReasonKey));
    store->add(kSeenKey, 1);
  });
  if (!is_known || reason->empty()) return {};
  run_within(farewell(timeout_),
             [store = store_, others = world_size() - 1] { wait_until_seen(*store, others); });
  return *reason;
}

void ProcessGroupState::abort(std::string_view reason) noexcept {
  if (!group_.defined()) return;
  try {
    const std::string text = fmt::format("process {} of {} stopped: {}", rank(), world_size(), reason);
    const auto is_first = std::make_shared<bool>(false);
    run_within(farewell(timeout_), [store = store_, text, is_first] {
      *is_first = text_of(store->compareSet(kReasonKey, {}, bytes_of(text))) == text;
    });
    // The others look for the reason when their connections are closed.
    group_.reset();
    run_within(farewell(timeout_), [store = store_, others = world_size() - 1, is_first] {
      if (!*is_first) store->add(kSeenKey, 1);
      wait_until_seen(*store, others);
    });
  } catch (const std::exception&) {
    group_.reset();
  }
}

}  // namespace internal
}  // namespace diffusers

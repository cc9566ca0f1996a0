#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <optional>
#include <utility>

#include <diffusers/training/process_group.h>

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>

#include "core/json.h"
#include "core/require.h"
#include "training/distributed/launch_environment.h"
#include "training/distributed/process_group_state.h"

namespace diffusers {
namespace {

std::optional<std::string> environment_variable(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  return value == nullptr ? std::nullopt : std::optional<std::string>(value);
}

void check_group_options(const ProcessGroupOptions& options) {
  // A day is more than anybody waits, and the timeouts of c10d hold it.
  constexpr double kMostSeconds = 86400.0;
  constexpr double kMostMegabytes = 1048576.0;
  require<ConfigError>(options.timeout_seconds >= 1 && options.timeout_seconds <= kMostSeconds,
                       "timeout_seconds of the process group is {}, expected 1 to {}",
                       options.timeout_seconds, kMostSeconds);
  require<ConfigError>(options.bucket_cap_mb > 0 && options.bucket_cap_mb <= kMostMegabytes,
                       "bucket_cap_mb is {}, expected a number above 0, and at most {}",
                       options.bucket_cap_mb, kMostMegabytes);
  require<ConfigError>(options.zero_stage >= 0 && options.zero_stage <= 2,
                       "zero_stage is {}, expected 0, 1 or 2", options.zero_stage);
}

/// Returns the CUDA device of a local rank.
at::Device cuda_device(int64_t index) {
  const auto count = static_cast<int64_t>(
      static_cast<uint8_t>(at::globalContext().getAcceleratorHooksInterface(at::kCUDA).deviceCount()));
  require<ConfigError>(index < count,
                       "the local rank is {}, but this machine has {} CUDA devices; expected one process for "
                       "each device at most (LOCAL_RANK, CUDA_VISIBLE_DEVICES)",
                       index, count);
  return {at::kCUDA, static_cast<c10::DeviceIndex>(index)};
}

Tensor bytes_tensor(std::string_view text, int64_t size) {
  Tensor bytes = at::zeros({size}, at::kByte);
  if (!text.empty()) std::memcpy(bytes.mutable_data_ptr(), text.data(), text.size());
  return bytes;
}

std::string text_of_bytes(const Tensor& bytes, int64_t size) {
  return {static_cast<const char*>(bytes.const_data_ptr()), static_cast<std::size_t>(size)};
}

/// Broadcasts the bytes of a contiguous tensor.
void broadcast_bytes(ProcessGroupState& state, const Tensor& contiguous, int64_t root) {
  state.exchange("a broadcast", [&](c10d::ProcessGroup& group) {
    std::vector<Tensor> tensors{contiguous.flatten().view(at::kByte)};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    group.broadcast(tensors, options)->wait();
  });
}

int64_t broadcast_number(ProcessGroupState& state, int64_t value, int64_t root) {
  const Tensor number = at::full({1}, value, at::kLong);
  broadcast_bytes(state, number, root);
  return number.item<int64_t>();
}

}  // namespace

ProcessGroup::ProcessGroup(std::shared_ptr<ProcessGroupState> state) : state_(std::move(state)) {}

ProcessGroup ProcessGroup::from_environment(const ProcessGroupOptions& options) {
  check_group_options(options);
  const std::optional<LaunchEnvironment> environment = read_launch_environment(environment_variable);
  if (!environment) return {};
  // NCCL connects the current devices.
  if (at::hasCUDA())
    at::globalContext().getAcceleratorHooksInterface(at::kCUDA).setCurrentDevice(
        cuda_device(environment->local_rank.value_or(environment->rank)).index());
  return ProcessGroup(std::make_shared<ProcessGroupState>(*environment, options));
}

int64_t ProcessGroup::rank() const { return state_ ? state_->rank() : 0; }
int64_t ProcessGroup::world_size() const { return state_ ? state_->world_size() : 1; }
int64_t ProcessGroup::local_rank() const { return state_ ? state_->local_rank() : 0; }

const ProcessGroupOptions& ProcessGroup::options() const {
  static const ProcessGroupOptions kDefaults;
  return state_ ? state_->options() : kDefaults;
}

at::Device ProcessGroup::device() const {
  return at::hasCUDA() ? cuda_device(local_rank()) : at::Device(at::kCPU);
}

void ProcessGroup::broadcast(const Tensor& tensor, int64_t root) const {
  if (!state_ || tensor.numel() == 0) return;
  const at::NoGradGuard no_grad;
  const Tensor target = tensor.detach();
  const Tensor contiguous = target.contiguous();
  broadcast_bytes(*state_, contiguous, root);
  if (!contiguous.is_same(target)) target.copy_(contiguous);
}

void ProcessGroup::all_reduce(const Tensor& tensor) const {
  if (!state_ || tensor.numel() == 0) return;
  const at::NoGradGuard no_grad;
  const Tensor target = tensor.detach();
  const Tensor contiguous = target.contiguous();
  state_->exchange("an all-reduce", [&](c10d::ProcessGroup& group) {
    std::vector<Tensor> tensors{contiguous};
    group.allreduce(tensors)->wait();
  });
  if (!contiguous.is_same(target)) target.copy_(contiguous);
}

std::string ProcessGroup::broadcast(std::string_view text, int64_t root) const {
  if (!state_) return std::string(text);
  const int64_t size = broadcast_number(*state_, static_cast<int64_t>(text.size()), root);
  if (size == 0) return {};
  const Tensor bytes = bytes_tensor(rank() == root ? text : std::string_view(), size);
  broadcast_bytes(*state_, bytes, root);
  return text_of_bytes(bytes, size);
}

TensorMap ProcessGroup::broadcast(const TensorMap& tensors, int64_t root) const {
  if (!state_) return tensors;
  const bool is_root = rank() == root;
  Json list = Json::array();
  if (is_root)
    for (const auto& [name, tensor] : tensors)
      list.push_back({name, static_cast<int>(tensor.scalar_type()), tensor.sizes().vec()});
  list = parse_json(broadcast(list.dump(), root), "the list of the tensors of another process");
  TensorMap received;
  for (const Json& entry : list) {
    const auto name = entry[0].get<std::string>();
    const Tensor tensor = is_root ? tensors.at(name).detach().cpu().contiguous()
                                  : at::empty(entry[2].get<std::vector<int64_t>>(),
                                              static_cast<at::ScalarType>(entry[1].get<int>()));
    broadcast(tensor, root);
    if (!is_root) received.insert(name, tensor);
  }
  return is_root ? tensors : received;
}

std::vector<std::string> ProcessGroup::all_gather(std::string_view text) const {
  if (!state_) return {std::string(text)};
  const auto gather = [&](const Tensor& own) {
    std::vector<std::vector<Tensor>> gathered(1);
    for (int64_t i = 0; i < world_size(); ++i) gathered[0].push_back(at::empty_like(own));
    state_->exchange("an all-gather", [&](c10d::ProcessGroup& group) {
      std::vector<Tensor> input{own};
      group.allgather(gathered, input)->wait();
    });
    return gathered[0];
  };
  std::vector<int64_t> sizes;
  for (const Tensor& size : gather(at::full({1}, static_cast<int64_t>(text.size()), at::kLong)))
    sizes.push_back(size.item<int64_t>());
  const int64_t longest = std::max<int64_t>(1, *std::max_element(sizes.begin(), sizes.end()));
  const std::vector<Tensor> bytes = gather(bytes_tensor(text, longest));
  std::vector<std::string> texts;
  for (std::size_t i = 0; i < bytes.size(); ++i) texts.push_back(text_of_bytes(bytes[i], sizes[i]));
  return texts;
}

void ProcessGroup::barrier() const {
  // Also without devices, unlike c10d's barrier.
  all_gather("");
}

void ProcessGroup::abort(std::string_view reason) const noexcept {
  if (state_) state_->abort(reason);
}

}  // namespace diffusers

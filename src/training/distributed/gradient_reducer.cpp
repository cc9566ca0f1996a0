#include "training/distributed/gradient_reducer.h"

#include <algorithm>
#include <string>
#include <torch/csrc/distributed/c10d/comm.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>
#include <utility>

#include <ATen/ATen.h>

#include "core/require.h"
#include "training/distributed/exchange_trace.h"
#include "training/distributed/process_group_state.h"

namespace diffusers {
inline namespace internal {
namespace {

constexpr const char* kGradientExchange = "the exchange of gradients";

/// Rounds a bucket to bfloat16 for its journey.
class Bf16Hook : public c10d::CppCommHookInterface<c10::intrusive_ptr<c10d::ProcessGroup>> {
 public:
  using CppCommHookInterface::CppCommHookInterface;

  c10::intrusive_ptr<c10::ivalue::Future> runHook(c10d::GradBucket& bucket) override {
    const Tensor gradients = bucket.getBufferRef();
    // Divided before it is rounded, as LibTorch's hook for float16 does.
    const Tensor compressed = gradients.to(at::kBFloat16).div_(state_->getSize());
    std::vector<Tensor> tensors{compressed};
    const auto reduced = state_->allreduce(tensors)->getFuture();
    return reduced->then(
        [gradients](c10::ivalue::Future& future) {
          const c10::IValue& value = future.value();
          const Tensor sum = value.isTensor() ? value.toTensor() : value.toTensorVector()[0];
          const at::NoGradGuard no_grad;
          gradients.copy_(sum);
          return c10::IValue(gradients);
        },
        c10::TensorType::get());
  }
};

/// Exchanges a bucket as the Reducer does without a hook.
class PlainHook : public c10d::CppCommHookInterface<c10::intrusive_ptr<c10d::ProcessGroup>> {
 public:
  using CppCommHookInterface::CppCommHookInterface;

  c10::intrusive_ptr<c10::ivalue::Future> runHook(c10d::GradBucket& bucket) override {
    std::vector<Tensor> tensors{bucket.getBufferRef().div_(state_->getSize())};
    return state_->allreduce(tensors)->getFuture();
  }
};

/// Records the times of another hook.
class TimedHook : public c10d::CppCommHookInterface<c10::intrusive_ptr<c10d::ProcessGroup>> {
 public:
  TimedHook(const c10::intrusive_ptr<c10d::ProcessGroup>& group,
            std::unique_ptr<c10d::CommHookInterface> hook, std::shared_ptr<ExchangeTrace> trace)
      : CppCommHookInterface(group), hook_(std::move(hook)), trace_(std::move(trace)) {}

  c10::intrusive_ptr<c10::ivalue::Future> runHook(c10d::GradBucket& bucket) override {
    const std::size_t number = trace_->begin_exchange(static_cast<int64_t>(bucket.getBufferRef().nbytes()));
    auto future = hook_->runHook(bucket);
    future->addCallback([trace = trace_, number](c10::ivalue::Future&) { trace->end_exchange(number); });
    return future;
  }

 private:
  std::unique_ptr<c10d::CommHookInterface> hook_;
  std::shared_ptr<ExchangeTrace> trace_;
};

/// Returns the hook that exchanges a bucket; null: the Reducer's own.
/// @param trace null: none
std::unique_ptr<c10d::CommHookInterface> exchange_hook(const c10::intrusive_ptr<c10d::ProcessGroup>& group,
                                                       GradientCompression compression,
                                                       const std::shared_ptr<ExchangeTrace>& trace) {
  std::unique_ptr<c10d::CommHookInterface> hook;
  if (compression == GradientCompression::kBf16) hook = std::make_unique<Bf16Hook>(group);
  if (trace == nullptr) return hook;
  if (hook == nullptr) hook = std::make_unique<PlainHook>(group);
  return std::make_unique<TimedHook>(group, std::move(hook), trace);
}

}  // namespace

struct GradientReducer::State {
  ProcessGroup group;
  bool finds_unused = false;
  bool has_run = false;
  std::shared_ptr<ExchangeTrace> trace;  // null: none
  std::unique_ptr<c10d::Reducer> reducer;
};

GradientReducer::GradientReducer(const std::vector<Tensor>& parameters, ProcessGroup group)
    : GradientExchange(parameters), state_(std::make_unique<State>()) {
  const ProcessGroupOptions& options = group.state()->options();
  state_->finds_unused = options.find_unused_parameters;
  const auto cap = static_cast<int64_t>(options.bucket_cap_mb * 1024 * 1024);
  const int64_t first_cap = std::min<int64_t>(c10d::kDefaultFirstBucketBytes, cap);
  const std::vector<bool> is_sparse(parameters.size(), false);
  // In the order of the parameters, as DistributedDataParallel does: the Reducer then makes its buckets anew
  // in the order in which the first backward pass computes the gradients.
  const std::vector<std::size_t> caps{static_cast<std::size_t>(first_cap), static_cast<std::size_t>(cap)};
  std::vector<std::vector<std::size_t>> buckets =
      std::get<0>(c10d::compute_bucket_assignment_by_size(parameters, caps, is_sparse));
  std::reverse(buckets.begin(), buckets.end());
  state_->reducer = std::make_unique<c10d::Reducer>(
      parameters, std::move(buckets), group.state()->group(), is_sparse, cap, state_->finds_unused,
      /*gradient_as_bucket_view=*/true, std::unordered_map<std::size_t, std::string>{}, first_cap,
      /*skip_all_reduce_unused_params=*/false, /*use_python_reducer=*/false, std::vector<int64_t>{});
  state_->trace = ExchangeTrace::from_environment(group.rank());
  if (state_->trace != nullptr)
    require<ConfigError>(
        parameters.front().is_cpu(),
        "{} is set, but the parameters are on {}; the trace measures Gloo, which exchanges the "
        "gradients of CPUs",
        kExchangeTraceVariable, parameters.front().device().str());
  if (auto hook = exchange_hook(group.state()->group(), options.gradient_compression, state_->trace))
    state_->reducer->register_comm_hook(std::move(hook));
  state_->group = std::move(group);
}

GradientReducer::~GradientReducer() = default;

void GradientReducer::backward(const Tensor& loss, bool is_last) {
  State& state = *state_;
  // The Reducer divides by the number of processes.
  const Tensor scaled = loss * static_cast<double>(state.group.world_size());
  try {
    if (is_last) {
      if (state.reducer->should_rebuild_buckets() && state.has_run) state.reducer->rebuild_buckets();
      state.reducer->prepare_for_backward(state.finds_unused ? std::vector<Tensor>{scaled}
                                                             : std::vector<Tensor>{});
    }
    if (state.trace != nullptr && is_last) state.trace->begin_backward();
    scaled.backward();
    if (state.trace != nullptr && is_last) state.trace->end_backward();
    if (is_last) {
      state.has_run = true;
      state.reducer->check_finalized();
    }
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    state.group.state()->check_for_exchange(kGradientExchange, error);
    require<ConfigError>(std::string_view(error.what()).find("finished reduction") == std::string_view::npos,
                         "some of the {} trained parameters got no gradient, so that the processes cannot "
                         "exchange them; set find_unused_parameters to true, or freeze these parameters",
                         parameters().size());
    throw;
  }
}

}  // namespace internal
}  // namespace diffusers

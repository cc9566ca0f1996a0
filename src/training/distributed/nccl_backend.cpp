#include "training/distributed/nccl_backend.h"

#if DIFFUSERS_WITH_NCCL
#ifndef USE_C10D_NCCL
#define USE_C10D_NCCL
#endif
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

#include "core/require.h"

namespace diffusers {
inline namespace internal {

#if DIFFUSERS_WITH_NCCL

bool has_nccl() { return true; }

void add_nccl_backend(c10d::ProcessGroup& group, const c10::intrusive_ptr<c10d::Store>& store,
                      std::chrono::milliseconds timeout) {
  const auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = timeout;
  const auto nccl = c10::make_intrusive<c10d::ProcessGroupNCCL>(
      c10::make_intrusive<c10d::PrefixStore>("diffusers/nccl", store), group.getRank(), group.getSize(),
      options);
  group.setBackend(c10::DeviceType::CUDA, c10d::ProcessGroup::BackendType::NCCL, nccl);
}

#else

bool has_nccl() { return false; }

void add_nccl_backend(c10d::ProcessGroup&, const c10::intrusive_ptr<c10d::Store>&,
                      std::chrono::milliseconds) {
  fail<ConfigError>("the library was built without NCCL");
}

#endif

}  // namespace internal
}  // namespace diffusers

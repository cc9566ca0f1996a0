#include "training/distributed/nccl_backend.h"

#include "core/cuda_library.h"
#include "core/require.h"

namespace diffusers {
inline namespace internal {

#if DIFFUSERS_WITH_NCCL

bool has_nccl() { return true; }

void add_nccl_backend(c10d::ProcessGroup& group, const c10::intrusive_ptr<c10d::Store>& store,
                      std::chrono::milliseconds timeout) {
  cuda_function<decltype(diffusers_add_nccl_backend)>("diffusers_add_nccl_backend")(group, store, timeout);
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

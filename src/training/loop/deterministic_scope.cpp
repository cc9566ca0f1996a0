#include "training/loop/deterministic_scope.h"

#include <mutex>

#include <ATen/Context.h>

namespace diffusers {
inline namespace internal {
namespace {

struct DeterminismFlags {
  bool algorithms = false, warn_only = false, cudnn = false, benchmark = false;
};

DeterminismFlags current_flags() {
  const at::Context& context = at::globalContext();
  return {context.deterministicAlgorithms(), context.deterministicAlgorithmsWarnOnly(),
          context.deterministicCuDNN(), context.benchmarkCuDNN()};
}

void set_flags(const DeterminismFlags& flags) {
  at::Context& context = at::globalContext();
  context.setDeterministicAlgorithms(flags.algorithms, flags.warn_only);
  context.setDeterministicCuDNN(flags.cudnn);
  context.setBenchmarkCuDNN(flags.benchmark);
}

struct DeterminismState {
  std::mutex mutex;
  int scopes = 0;
  DeterminismFlags before;  // the first scope
};

DeterminismState& determinism() {
  static DeterminismState instance;
  return instance;
}

}  // namespace

DeterministicScope::DeterministicScope(bool enabled) : enabled_(enabled) {
  if (!enabled_) return;
  const std::lock_guard lock(determinism().mutex);
  if (determinism().scopes++ > 0) return;
  determinism().before = current_flags();
  set_flags({.algorithms = true, .warn_only = false, .cudnn = true, .benchmark = false});
}

DeterministicScope::~DeterministicScope() {
  if (!enabled_) return;
  const std::lock_guard lock(determinism().mutex);
  if (--determinism().scopes == 0) set_flags(determinism().before);
}

}  // namespace internal
}  // namespace diffusers

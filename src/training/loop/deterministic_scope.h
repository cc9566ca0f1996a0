#pragma once

namespace diffusers {
inline namespace internal {

/// LibTorch's deterministic algorithms, until the scope ends. The setting is one for the whole process: while
/// any enabled scope lives, in any thread, it is on; the last one restores what was set before the first.
class DeterministicScope {
 public:
  explicit DeterministicScope(bool enabled);
  DeterministicScope(const DeterministicScope&) = delete;
  DeterministicScope& operator=(const DeterministicScope&) = delete;
  ~DeterministicScope();

 private:
  bool enabled_;
};

}  // namespace internal
}  // namespace diffusers

#pragma once

// Functions that kill code at a given system call, and a simulated file system that cannot exchange two
// paths.

#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <optional>
#include <stdexcept>
#include <string>

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

namespace diffusers::test {

/// Puts temporary folders into a file system in memory, if there is one, since thousands of syncs are fast
/// there.
class MemoryScope {
 public:
  MemoryScope() {
    const char* now = std::getenv("TMPDIR");
    if (now != nullptr) previous_ = now;
    if (::access("/dev/shm", W_OK) == 0) ::setenv("TMPDIR", "/dev/shm", 1);
  }
  MemoryScope(const MemoryScope&) = delete;
  MemoryScope& operator=(const MemoryScope&) = delete;
  ~MemoryScope() { previous_ ? ::setenv("TMPDIR", previous_->c_str(), 1) : ::unsetenv("TMPDIR"); }

 private:
  std::optional<std::string> previous_;
};

enum class ChildEnd {
  kKilled,     ///< killed at the call
  kEnded,      ///< ended before that number of calls
  kFailed,     ///< ended by an exception
  kNotTraced,  ///< child processes cannot be traced here
};

/// Runs `function` in a child process that stops before and after each of its system calls.
/// @param at_stop receives the child and the number of the stop, from 1; returns false to kill the child
template <class Function, class AtStop>
ChildEnd run_traced(Function function, AtStop at_stop) {
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(77);
    ::raise(SIGSTOP);
    try {
      function();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s\n", error.what());
      std::fflush(stderr);
      ::_exit(1);
    }
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  if (WIFEXITED(status)) return ChildEnd::kNotTraced;
  ::ptrace(PTRACE_SETOPTIONS, child, nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
  int64_t stops = 0;
  long signal = 0;
  while (true) {
    ::ptrace(PTRACE_SYSCALL, child, nullptr, signal);
    if (::waitpid(child, &status, 0) != child) return ChildEnd::kFailed;
    if (WIFEXITED(status)) return WEXITSTATUS(status) == 0 ? ChildEnd::kEnded : ChildEnd::kFailed;
    if (WIFSIGNALED(status)) return ChildEnd::kFailed;
    const bool is_call = WSTOPSIG(status) == (SIGTRAP | 0x80);
    signal = is_call ? 0 : WSTOPSIG(status);
    if (!is_call || at_stop(child, ++stops)) continue;
    ::kill(child, SIGKILL);
    ::waitpid(child, &status, 0);
    return ChildEnd::kKilled;
  }
}

/// Runs `function` in a child process and kills it at its system call number `call`, from 1.
template <class Function>
ChildEnd killed_at_system_call(int64_t call, Function function) {
  return run_traced(function, [call](pid_t, int64_t stop) { return stop != 2 * call - 1; });
}

/// Runs `function` in a child process, in which call number `call` of the calls that change a disk fails with
/// `error`.
/// @param is_injected set to true if the process makes that many such calls
template <class Function>
ChildEnd failing_system_call(int64_t call, int error, bool& is_injected, Function function) {
  is_injected = false;
#ifdef __x86_64__
  int64_t changes = 0;
  bool is_failing = false;
  return run_traced(function, [&](pid_t child, int64_t stop) {
    const bool is_before = stop % 2 == 1;
    if (is_before) {
      const long number = ::ptrace(PTRACE_PEEKUSER, child, offsetof(user_regs_struct, orig_rax), nullptr);
      bool is_change = false;
      for (const long change : {SYS_openat, SYS_open, SYS_write, SYS_fsync, SYS_rename, SYS_renameat2,
                                SYS_link, SYS_unlink, SYS_unlinkat, SYS_mkdir, SYS_rmdir})
        is_change = is_change || number == change;
      is_failing = is_change && ++changes == call;
      if (is_failing) {
        is_injected = true;
        ::ptrace(PTRACE_POKEUSER, child, offsetof(user_regs_struct, orig_rax), -1L);
      }
    } else if (is_failing) {
      ::ptrace(PTRACE_POKEUSER, child, offsetof(user_regs_struct, rax), static_cast<long>(-error));
      is_failing = false;
    }
    return true;
  });
#else
  (void)call, (void)error, (void)function;
  return ChildEnd::kNotTraced;
#endif
}

/// Makes the exchange of two paths (renameat2 with RENAME_EXCHANGE) fail with `error` in this thread from now
/// on.
inline void deny_rename_exchange(int error) {
  constexpr unsigned kExchange = 2;  // RENAME_EXCHANGE of linux/fs.h
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_renameat2, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[4])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kExchange, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (static_cast<unsigned>(error) & SECCOMP_RET_DATA)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter{sizeof(program) / sizeof(program[0]), program};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0) != 0)
    throw std::runtime_error("a seccomp filter cannot be installed");
}

/// Kills `function` at each of its system calls in turn.
/// @param before prepares each run; `after` checks the files that the killed process left
/// @return the number of kills; 0 if child processes cannot be traced
template <class Before, class Function, class After>
int64_t kill_at_each_system_call(Before before, Function function, After after) {
  for (int64_t call = 1;; ++call) {
    before();
    const ChildEnd end = killed_at_system_call(call, function);
    if (end == ChildEnd::kNotTraced) return 0;
    EXPECT_NE(end, ChildEnd::kFailed) << "at call " << call;
    if (end != ChildEnd::kKilled) return call - 1;
    after(call);
    if (::testing::Test::HasFailure()) return call;
  }
}

}  // namespace diffusers::test

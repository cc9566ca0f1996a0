#include <atomic>

#include <diffusers/ops/fused.h>

namespace diffusers {
namespace {

std::atomic<bool> g_fused_cpu{true};
std::atomic<bool> g_fused_cuda{false};

}  // namespace

void set_fused_cpu(bool enabled) { g_fused_cpu = enabled; }
bool fused_cpu() { return g_fused_cpu; }

void set_fused_cuda(bool enabled) { g_fused_cuda = enabled; }
bool fused_cuda() { return g_fused_cuda; }

}  // namespace diffusers

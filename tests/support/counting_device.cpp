#include "support/counting_device.h"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string_view>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/util/Backtrace.h>
#include <torch/library.h>
#include <torch/nn/module.h>

namespace diffusers::test {
namespace {

constexpr c10::DeviceType kType = c10::DeviceType::PrivateUse1;

std::mutex traffic_mutex;
bool is_counting = false;
DeviceTraffic counted;

/// Nesting depth of CPU operators inside an operator of the device.
thread_local int inside = 0;

struct Inside {
  Inside() { ++inside; }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;
  ~Inside() { --inside; }
};

void count(const std::string& event) {
  if (inside > 0) return;
  const std::lock_guard lock(traffic_mutex);
  if (!is_counting) return;
  ++counted[event];
  if (std::getenv("DIFFUSERS_TRACE_TRAFFIC") != nullptr)
    std::fprintf(stderr, "%s\n%s\n", event.c_str(), c10::get_backtrace(2, 40).c_str());
}

struct Allocator : c10::Allocator {
  c10::DataPtr allocate(std::size_t size) override {
    void* data = size == 0 ? nullptr : std::aligned_alloc(64, (size + 63) / 64 * 64);
    TORCH_CHECK(size == 0 || data != nullptr, "out of memory: ", size, " bytes");
    return {data, data, &std::free, counting_device()};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &std::free; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

Allocator allocator;

struct Guard : c10::impl::NoOpDeviceGuardImpl<kType> {
  c10::Device exchangeDevice(c10::Device) const override { return counting_device(); }
  c10::Device getDevice() const override { return counting_device(); }
  c10::Stream getStream(c10::Device) const noexcept override { return stream(); }
  c10::Stream getNewStream(c10::Device, int) const override { return stream(); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return stream(); }
  // Calls are synchronous.
  void record(void**, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void synchronizeEvent(void*) const override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}

 private:
  static c10::Stream stream() { return c10::Stream(c10::Stream::DEFAULT, counting_device()); }
};

const c10::impl::DeviceGuardImplRegistrar kRegisteredGuard(kType, new Guard);

/// Draws the same numbers as a CPU generator.
class DeviceGenerator : public c10::GeneratorImpl {
 public:
  explicit DeviceGenerator(at::Generator host)
      : GeneratorImpl(counting_device(), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)),
        host_(std::move(host)) {}

  /// Counts the traffic of one operator.
  at::Generator draw() {
    ++offset_;
    return host_;
  }
  void set_current_seed(uint64_t seed) override {
    host_.set_current_seed(seed);
    offset_ = 0;
  }
  void set_offset(uint64_t offset) override { offset_ = offset; }
  uint64_t get_offset() const override { return offset_; }
  uint64_t current_seed() const override { return host_.current_seed(); }
  uint64_t seed() override { return host_.seed(); }
  void set_state(const c10::TensorImpl& state) override { host_.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return host_.unsafeGetGeneratorImpl()->get_state();
  }

 private:
  DeviceGenerator* clone_impl() const override { return new DeviceGenerator(host_.clone()); }

  at::Generator host_;
  uint64_t offset_ = 0;
};

at::Generator new_generator() {
  return at::make_generator<DeviceGenerator>(at::detail::createCPUGenerator());
}

struct Hooks : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    static const at::Generator generator = new_generator();
    return generator;
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return new_generator(); }
};

/// A backward pass queries the streams of the process's accelerator. A build with CUDA would query CUDA,
/// which may not be available, unless the program registers an accelerator.
const bool kIsRegistered = [] {
  c10::register_privateuse1_backend("counting");
  at::RegisterPrivateUse1HooksInterface(new Hooks);
  return true;
}();

/// Returns a CPU tensor with the same memory.
at::Tensor on_host(const at::Tensor& tensor) {
  if (!tensor.defined() || tensor.is_cpu()) return tensor;
  return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(),
                       at::TensorOptions().dtype(tensor.scalar_type()));
}

at::Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                 std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &allocator,
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           c10::dtype_or_default(dtype));
}

at::Tensor to_device(const at::Tensor& tensor) {
  if (!tensor.defined()) return tensor;
  at::Tensor copy =
      at::empty_strided(tensor.sizes(), tensor.strides(), tensor.options().device(counting_device()));
  on_host(copy).copy_(tensor);
  return copy;
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  if (from.is_cpu()) count("copy to the device");
  if (to.is_cpu()) count("copy to the host");
  const Inside guard;
  on_host(to).copy_(on_host(from));
  return to;
}

const at::Tensor& resize_device(const at::Tensor& tensor, at::IntArrayRef size,
                                std::optional<at::MemoryFormat>) {
  const at::Tensor fresh = at::empty(size, tensor.options());
  tensor.unsafeGetTensorImpl()->set_storage_keep_dtype(fresh.storage());
  tensor.unsafeGetTensorImpl()->set_sizes_contiguous(size);
  return tensor;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  if (from.sizes() != to.sizes()) resize_device(to, from.sizes(), std::nullopt);
  return copy_from(from, to, false);
}

at::Scalar read_value(const at::Tensor& tensor) {
  count("aten::_local_scalar_dense");
  const Inside guard;
  return on_host(tensor).item();
}

at::Tensor convolution(const at::Tensor& input, const at::Tensor& weight,
                       const std::optional<at::Tensor>& bias, at::IntArrayRef stride, at::IntArrayRef padding,
                       at::IntArrayRef dilation, bool transposed, at::IntArrayRef output_padding,
                       int64_t groups) {
  const Inside guard;
  const auto host_bias = bias ? std::optional(on_host(*bias)) : std::nullopt;
  return to_device(at::convolution(on_host(input), on_host(weight), host_bias, stride, padding, dilation,
                                   transposed, output_padding, groups));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& weight, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed, at::IntArrayRef output_padding,
    int64_t groups, std::array<bool, 3> mask) {
  const Inside guard;
  const auto [grad_input, grad_weight, grad_bias] = at::convolution_backward(
      on_host(grad), on_host(input), on_host(weight), at::IntArrayRef{weight.size(0)}, stride, padding,
      dilation, transposed, output_padding, groups, mask);
  return {to_device(grad_input), to_device(grad_weight), to_device(grad_bias)};
}

/// As on a GPU, a host tensor is accepted as an index, which is copied, or if it has one element.
void check_devices(const std::string& name, const c10::IValue& value) {
  const auto check = [&](const at::Tensor& tensor) {
    if (!tensor.defined() || !tensor.is_cpu() || tensor.dim() == 0) return;
    TORCH_CHECK(name.find("index") != std::string::npos, name, ": expected all tensors on ",
                counting_device(), ", found one on the CPU");
    count("copy to the device");
  };
  if (value.isTensor()) check(value.toTensor());
  if (value.isTensorList())
    for (const at::Tensor& tensor : value.toTensorVector()) check(tensor);
  if (value.isOptionalTensorList())
    for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorVector())
      if (tensor) check(*tensor);
}

/// Every other operator runs on the CPU.
void fall_back(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const std::string& name = op.schema().name();
  // The host reads the values of the arguments or the size of the result.
  for (const std::string_view reading :
       {"aten::nonzero", "aten::nonzero_numpy", "aten::equal", "aten::masked_select", "aten::_unique2",
        "aten::unique_dim", "aten::unique_consecutive", "aten::bincount", "aten::repeat_interleave"})
    if (name == reading) count(name);
  const std::size_t arguments = op.schema().arguments().size();
  for (std::size_t i = stack->size() - arguments; i < stack->size(); ++i) {
    c10::IValue& value = (*stack)[i];
    check_devices(name, value);
    if (!value.isGenerator() || value.toGenerator().device() != counting_device()) continue;
    value = static_cast<DeviceGenerator*>(value.toGenerator().unsafeGetGeneratorImpl())->draw();
  }
  const Inside guard;
  at::native::cpu_fallback(op, stack);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&fall_back>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("resize_", &resize_device);
  library.impl("_copy_from", &copy_from);
  library.impl("_copy_from_and_resize", &copy_from_and_resize);
  library.impl("_local_scalar_dense", &read_value);
  library.impl("as_strided", &at::native::as_strided_tensorimpl);
  library.impl("view", &at::native::view);
  library.impl("_reshape_alias", &at::native::_reshape_alias);
  library.impl("unfold", &at::native::unfold);
  library.impl("convolution_overrideable", &convolution);
  // LibTorch's composition of this operator requires contiguous tensors, but a GPU has a kernel.
  library.impl("native_group_norm", torch::CppFunction::makeFromBoxedFunction<&fall_back>());
  library.impl("convolution_backward_overrideable", &convolution_backward);
}

}  // namespace

at::Device counting_device() { return {kType, 0}; }

void move_to_counting_device(torch::nn::Module& module) {
  const auto move = [](const at::Tensor& tensor) {
    const at::Tensor moved = tensor.detach().to(counting_device());
    tensor.unsafeGetTensorImpl()->shallow_copy_from(moved.getIntrusivePtr());
  };
  for (const at::Tensor& parameter : module.parameters()) move(parameter);
  for (const at::Tensor& buffer : module.buffers()) move(buffer);
}

TrafficCounter::TrafficCounter() {
  const std::lock_guard lock(traffic_mutex);
  TORCH_CHECK(!is_counting, "two traffic counters at a time");
  counted.clear();
  is_counting = true;
}

TrafficCounter::~TrafficCounter() {
  const std::lock_guard lock(traffic_mutex);
  is_counting = false;
}

DeviceTraffic TrafficCounter::traffic() const {
  const std::lock_guard lock(traffic_mutex);
  return counted;
}

}  // namespace diffusers::test

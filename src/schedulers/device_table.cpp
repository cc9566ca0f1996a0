#include <mutex>
#include <utility>
#include <vector>

#include <diffusers/schedulers/device_table.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

namespace diffusers {

struct DeviceTable::Copies {
  std::mutex mutex;
  std::vector<at::Tensor> tensors;  // rarely more than two, so a linear search is enough
};

DeviceTable::DeviceTable(at::Tensor host) : host_(std::move(host)), copies_(std::make_shared<Copies>()) {}

at::Tensor DeviceTable::on(at::Device device, at::ScalarType dtype) const {
  if (!host_.defined() || (host_.device() == device && host_.scalar_type() == dtype)) return host_;
  const std::lock_guard lock(copies_->mutex);
  for (const at::Tensor& each : copies_->tensors)
    if (each.device() == device && each.scalar_type() == dtype) return each;
  const at::NoGradGuard no_grad;
  return copies_->tensors.emplace_back(host_.to(device, dtype));
}

}  // namespace diffusers

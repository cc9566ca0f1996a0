#include "guidance.h"

#include <vector>

#include <ATen/ATen.h>

using namespace diffusers;

SamplingModel guided_model(const UNet2DModel& unet, const Tensor& labels, double scale) {
  if (!labels.defined())
    return [unet](const Tensor& x, const Tensor& t) { return unet->forward(x, t).sample; };
  if (scale <= 1)
    return [unet, labels](const Tensor& x, const Tensor& t) {
      return unet->forward(x, t, {.class_labels = labels}).sample;
    };
  const Tensor no_class = at::full_like(labels, unet->config().num_class_embeds.value() - 1);
  const Tensor both = at::cat({no_class, labels});
  return [unet, both, scale](const Tensor& x, const Tensor& t) {
    const std::vector<Tensor> halves =
        unet->forward(at::cat({x, x}), t, {.class_labels = both}).sample.chunk(2);
    return halves[0] + scale * (halves[1] - halves[0]);
  };
}

Tensor labels_by_column(int64_t count, int64_t num_classes, at::Device device) {
  return at::arange(count, at::TensorOptions().dtype(at::kLong).device(device)).remainder(num_classes);
}

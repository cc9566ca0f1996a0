#include "stoppable_preview.h"

#include <utility>

using namespace diffusers;

StepEndCallback stop_sampling_if(std::function<bool()> must_stop) {
  return [must_stop = std::move(must_stop)](int64_t, const Tensor&, Tensor&) {
    if (must_stop && must_stop()) throw PreviewStopped();
  };
}

void log_unless_stopped(const PreviewContext& at, const std::string& name,
                        const std::function<Tensor()>& draw, const ImageGridOptions& options) {
  Tensor images;
  try {
    images = draw();
  } catch (const PreviewStopped&) {
    return;
  }
  at.log_images(name, images, options);
}
